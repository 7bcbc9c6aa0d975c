"""The worked examples run as they stand, and what they train gets better."""

import importlib.util
import math
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "paper_protocol")  # it wants arguments


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_promised_example_is_there():
    assert (
        sorted(["accelerate_loop", "diffusers_unconditional", "latent_diffusion", "lora_text_to_image", "plain_loop"])
        == NAMES
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name, capsys):
    value = load(name).main()
    told = capsys.readouterr().out
    assert math.isfinite(value) and "loss" in told
    assert "False" not in told  # samples are finite and have converged


def test_the_diffusers_recipe_differs_in_two_lines():
    text = (FOLDER / "diffusers_unconditional.py").read_text()
    assert re.findall(r"  # ([12])\b", text) == ["1", "2"]


@pytest.mark.slow
def test_an_example_learns():
    module = load("plain_loop")
    assert module.main(steps=300) < 0.7 * module.main(steps=1)


@pytest.mark.slow
def test_the_papers_protocol_runs_small(tmp_path):
    words = "digits[:40] --heldout digits[40:80] --size 8 --channels 1 --k 5 --space pixels --steps 2 --batch-size 4"
    words += " --precision fp32 --width 8 --samples 4 --evaluations 6 --objective temperature"
    main = load("paper_protocol").main
    found = main([*words.split(), "--out", str(tmp_path)])
    assert math.isfinite(found["temperature"]["pixels"]["copy_auc"])
    made = [*tmp_path.glob("temperature/model/**/*.safetensors"), *tmp_path.glob("temperature/samples/shards/*.npz")]
    times = [path.stat().st_mtime_ns for path in made]
    assert main([*words.split(), "--out", str(tmp_path)]) == found
    assert len(made) > 1 and [path.stat().st_mtime_ns for path in made] == times  # neither is made twice
