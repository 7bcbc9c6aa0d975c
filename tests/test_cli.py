"""The command line as a user runs it: in a process of its own."""

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pictures import write
from temperance.cli.verb import app
from verbs import TINY, Refused, run


def test_train_writes_what_the_interface_says(trained: Path) -> None:
    assert {"config.yaml", "env.json", "metrics.jsonl", "model", "checkpoint-12", "checkpoint-6"} <= {
        p.name for p in trained.iterdir()
    }
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["objective"] == "tangent" and config["steps"] == 12
    assert [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()] == [4, 8, 12]


def test_resume_continues_where_it_stopped(tmp_path: Path, trained: Path) -> None:
    """12 steps, then 18 by --resume, equal 18 in one go."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    arguments = [
        "digits[:40]",
        "--set",
        "checkpoint_every=6",
        "--batch-size",
        16,
        "--quiet",
        "--objective",
        "conditional",
    ]
    run("train", *arguments, "--out", once, "--steps", 18)
    run("train", *arguments, "--out", twice, "--steps", 12)
    run("train", *arguments, "--out", twice, "--resume", "--set", "steps=18")
    name = "model/mlp/model.safetensors"
    assert (once / name).read_bytes() == (twice / name).read_bytes()


def test_typed_options_win_over_the_file_and_set_over_both(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("objective: unconditional\nlr: 0.002\nema: 0.9\n")
    arguments = ["digits[:30]", *TINY, "--config", file, "--objective", "conditional", "--set", "ema=0.5", "--json"]
    found = json.loads(run("train", *arguments, "--out", tmp_path / "run").stdout)
    assert (found["objective"], found["lr"], found["ema"], found["steps"]) == ("conditional", 0.002, 0.5, 12)


def test_resume_takes_what_is_typed_anew(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    found = json.loads(run("train", "digits[:40]", "--out", copy, "--resume", "--steps", 14, "--json").stdout)
    assert (found["steps"], found["batch_size"], found["objective"]) == (14, 16, "tangent")
    assert (copy / "checkpoint-14").is_dir()


def test_images_that_no_run_has_left_are_never_removed(tmp_path: Path, trained: Path, refused: Refused) -> None:
    own = tmp_path / "images"
    own.mkdir()
    Image.new("L", (8, 8)).save(own / "00000001.png")
    assert "choose another --out" in refused("sample", trained, "--out", tmp_path, "-n", 2)
    assert [p.name for p in own.iterdir()] == ["00000001.png"]


def test_a_shorter_resumed_sampling_run_leaves_what_it_was_asked_for(tmp_path: Path, trained: Path) -> None:
    for more in (["-n", 5], ["-n", 2, "--resume"]):
        run("sample", trained, "--out", tmp_path, *more, "--quiet")
    assert len(list((tmp_path / "images").glob("*.png"))) == len(np.load(tmp_path / "samples.npz")["arr_0"]) == 2


def test_a_refused_run_leaves_its_folder_as_it_was(tmp_path: Path, trained: Path, refused: Refused) -> None:
    out = tmp_path / "run"
    assert "fp16" in refused("train", "digits[:40]", "--out", out, *TINY, "--set", "precision=fp16", "--device", "cpu")
    assert "needs a row" in refused("train", "digits[:40]", "--out", out, *TINY[:-1], 2, "--set", "accumulate=4")
    assert "--heldout images" in refused("train", "digits[:40]", "--out", out, *TINY, "--heldout", "mnist5k[:20]")
    assert not (out / "config.yaml").exists()
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    before = (copy / "config.yaml").read_text()
    line = refused("train", "digits[:40]", "--out", copy, "--resume", "--network", "unet", "--steps", 14)
    assert "another network" in line and (copy / "config.yaml").read_text() == before
    assert "ahead of steps=6" in refused("train", "digits[:40]", "--out", copy, "--resume", "--steps", 6)


def test_other_labels_cannot_be_resumed_with(tmp_path: Path, refused: Refused) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), dtype=np.uint8)
    for name, labels in (("a", np.arange(40) % 2), ("b", np.arange(40) // 20)):
        np.savez(tmp_path / f"{name}.npz", arr_0=images, labels=labels)
    out = tmp_path / "run"
    run("train", tmp_path / "a.npz", "--out", out, *TINY, "--class-conditional", "--quiet")
    assert "labels are not those" in refused("train", tmp_path / "b.npz", "--out", out, "--resume", "--steps", 14)
    run("train", tmp_path / "a.npz", "--out", out, "--resume", "--steps", 14, "--quiet")


def test_an_audit_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "x.png")
        (folder / "x.png").rename(folder / os.fsdecode(b"caf\xe9%d.png" % i))
    run("audit", folder, folder, "--out", tmp_path / "audit", "--quiet")
    assert r"caf\udce9" in (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")


def test_a_run_that_was_stopped_before_its_first_checkpoint_can_be_resumed(tmp_path: Path, trained: Path) -> None:
    for name in ("config.yaml", "env.json"):
        shutil.copy(trained / name, tmp_path / name)
    run("train", "digits[:40]", "--out", tmp_path, "--resume", "--quiet")
    name = "model/mlp/model.safetensors"
    assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_sample_depends_on_seed_and_index_only(tmp_path: Path, trained: Path) -> None:
    a = json.loads(run("sample", trained, "--out", tmp_path / "a", "-n", 5, "--batch-size", 2, "--json").stdout)
    run("sample", trained, "--out", tmp_path / "b", "-n", 5, "--quiet")
    one, two = (np.load(tmp_path / x / "samples.npz")["arr_0"].astype(int) for x in "ab")
    assert one.shape == (5, 8, 8, 1) and np.abs(one - two).max() <= 1
    assert a["n"] == 5 and a["nfe"] == 39 and len(list((tmp_path / "a" / "images").iterdir())) == 5


@pytest.mark.parametrize("name", ["empirical", "temperature", "tangent"])
def test_closed_form_needs_no_training(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    run("sample", "digits[:40]", "--out", out, "-n", 6, "--closed-form", name, "--quiet")
    found = np.load(out / "samples.npz")["arr_0"].astype(float)
    from temperance.data import load

    distance = np.abs(found[:, None] - load("digits[:40]").pixels.astype(float)[None]).max((2, 3, 4)).min(1)
    # T = c / sigma sharpens again as sigma falls, so the temperature form copies, too (LOG.md); tangent must not.
    if name == "tangent":
        assert (distance > 16).mean() > 0.5
    else:
        assert (distance <= (3 if name == "empirical" else 24)).mean() >= (1.0 if name == "empirical" else 0.5)


def test_guard_withholds_what_it_cannot_redraw(tmp_path: Path) -> None:
    """The empirical denoiser can only copy: everything is refused, in bounded time, and it says so."""
    out = tmp_path / "out"
    done = run(
        "sample",
        "digits[:20]",
        "--out",
        out,
        "-n",
        3,
        "--closed-form",
        "empirical",
        "--guard",
        "digits[:20]",
        "--quiet",
    )
    assert json.loads((out / "sample.json").read_text())["guard"]["withheld"] == 3
    assert "were not written" in done.stderr


def test_audit_tells_copies_from_new_images(tmp_path: Path) -> None:
    arguments = ["--heldout", "digits[100:300]", "--json"]
    copied = json.loads(run("audit", "digits[:100]", "digits[:50]", "--out", tmp_path / "a", *arguments).stdout)
    fresh = json.loads(run("audit", "digits[:100]", "digits[300:500]", "--out", tmp_path / "b", *arguments).stdout)
    assert copied["encoders"]["pixels"]["memorized_fraction"] == 1.0
    assert copied["encoders"]["pixels"]["copy_auc"] == 1.0
    assert fresh["encoders"]["pixels"]["memorized_fraction"] == 0.0
    assert {c["train"] for c in copied["copies"]} == set(range(50))
    page = (tmp_path / "a" / "report.html").read_text()
    assert "<html" in page and "http://" not in page.replace("http://www.w3.org", "") and len(page) < 5_000_000


def test_the_gate_exits_1(tmp_path: Path) -> None:
    done = run("audit", "digits[:50]", "digits[:20]", "--out", tmp_path, "--fail-above", 0.1, "--quiet", code=1)
    assert "above --fail-above" in done.stderr


def test_analyze_suggests_settings(tmp_path: Path) -> None:
    found = json.loads(run("analyze", "digits[:60]", "--out", tmp_path, "--json").stdout)
    assert 0.3 < found["sigma_collapse"] < 1.5 and 0.2 <= found["suggested"]["h"] <= 1.2 and found["duplicates"] == 0
    assert found["suggested"]["h"] < found["suggested"]["h_matched"] < 4
    assert found["suggested"]["h_halved"] < found["suggested"]["h_matched"]
    assert (tmp_path / "report.html").exists() and json.loads((tmp_path / "analysis.json").read_text()) == found
    apart, mixed = (
        json.loads(run("analyze", "digits[:60]", "--heldout", f"digits[{n}:90]", "--out", tmp_path, "--json").stdout)
        for n in (60, 30)
    )
    assert apart["heldout_nearest_distance_median"] == mixed["heldout_nearest_distance_median"] > 0


def test_analyze_lists_near_duplicates_and_suggests_a_command_that_runs(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (30, 12, 12), np.uint8)
    for i in range(32):
        write(tmp_path / "my photos" / f"{i}.png", pictures[i % 30] ^ np.uint8(i // 30))
    asked = ["--size", 12, "--k", 4, "--out", tmp_path / "a", "--json"]
    found = json.loads(run("analyze", tmp_path / "my photos", *asked).stdout)
    assert [(pair["image"], pair["of"]) for pair in found["near_duplicates"]] == [
        ("0.png", "30.png"),
        ("1.png", "31.png"),
    ]
    page = html.unescape((tmp_path / "a" / "report.html").read_text())
    assert "0.png and 30.png, 1.png and 31.png" in page
    told = re.search(r"Suggested: temperance (train .*?--h [\d.]+)", page)
    assert told is not None
    run(*shlex.split(told[1]), "--set", "steps=2", cwd=tmp_path)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["size"] == 12


def test_doctor_answers() -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert found["ok"]
    told = {line["what"]: line["found"] for line in found["lines"]}
    assert told["encoders built in"] == "pixels, lowres, dct, phash"
    assert told["encoders as NAME:PATH"] == "classifier, torchscript, inception (inception-2015-12-05.pt)"


def test_demo_in_short(tmp_path: Path) -> None:
    done = run("demo", "--out", tmp_path, "--steps", 25, "--samples", 40, "--seeds", 1, "--quiet", "--json")
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert json.loads(done.stdout)["rows"] == rows
    methods = [r["method"] for r in rows]
    assert set(methods) >= {
        "conditional", "unconditional", "temperature", "tangent",
        "closed-form-empirical", "closed-form-temperature", "closed-form-tangent",
    }  # fmt: skip
    command = json.loads((tmp_path / "results.json").read_text())["provenance"]["command"]
    assert command == "temperance demo --data digits --steps 25 --samples 40 --seed 0 --seeds 1"
    empirical = rows[methods.index("closed-form-empirical")]
    assert empirical["memorized_fraction"] == 1.0 and empirical["heldout_memorized_fraction"] == 0.0
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def test_own_folder_end_to_end(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "run"
    (photos / "img99.png").write_bytes(b"not an image")
    skip = ["--on-bad", "skip", "--quiet"]
    run("train", photos, "--out", out, "--k", 4, *TINY, *skip, "--network", "mlp")
    run("sample", out, "--out", tmp_path / "s", "-n", 8, "--guard", photos, *skip)
    run("audit", photos, tmp_path / "s" / "images", "--out", tmp_path / "a", *skip)
    for i in range(14):
        Image.open(photos / f"img{i}.png").rotate(90).save(photos / f"turned{i}.png")
    few = ["--n-train", 12, "--n-heldout", 12, "--samples", 12, "--method", "closed-form-empirical", "--seeds", 1]
    run("study", photos, "--heldout", photos, "--out", tmp_path / "b", "--on-bad", "quarantine", "--quiet", *few)
    assert "img99.png" in (tmp_path / "b" / "quarantine.jsonl").read_text()
    assert json.loads((tmp_path / "a" / "report.json").read_text())["encoders"]["pixels"]["copy_auc"] is None


def test_two_reports_are_compared_without_a_connection(tmp_path: Path) -> None:
    for name, generated in (("a", "digits[:30]"), ("b", "digits[60:90]")):
        run(
            "audit",
            "digits[:60]",
            generated,
            "--heldout",
            "digits[90:140]",
            "--out",
            tmp_path / name,
            "--offline",
            "--quiet",
        )
    found = json.loads(run("audit", tmp_path / "a", tmp_path / "b", "--compare", "--out", tmp_path, "--json").stdout)
    assert found == json.loads((tmp_path / "compare.json").read_text())
    copied = found["encoders"]["pixels"]["memorized_fraction"]
    assert (copied["a"], copied["b"], copied["difference"]) == (1, 0, -1)
    assert "Side by side" in (tmp_path / "compare.html").read_text()


def test_offline_holds_for_whatever_could_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE")
    for name in names:
        monkeypatch.setenv(name, "set by the user")
    assert CliRunner().invoke(app, ["doctor", "--offline"]).exit_code == 0
    assert [os.environ[name] for name in names] == ["1", "1", "offline"]


def test_help_is_quick_and_import_is_light() -> None:
    heavy = ["diffusers", "accelerate", "transformers", "matplotlib", "jinja2", "torch"]
    code = f"import sys, temperance, temperance.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "audit" in run("--help").stdout
