"""Bad input and bad usage: one line that says what to do, exit code 2, nothing lost."""

import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from temperance import demo, study
from temperance.cli.verb import one_line_errors
from temperance.hub import load
from verbs import Refused, run


def test_too_little_memory_is_one_line_and_an_error_of_ours_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 800000 bytes")):
        with pytest.raises(SystemExit) as left, one_line_errors("train"):
            raise error
        assert left.value.code == 2
        assert capsys.readouterr().err.startswith("temperance train: not enough memory; try a smaller --batch-size")
    with pytest.raises(SystemExit) as left, one_line_errors("study"):
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")
    assert left.value.code == 2 and "a worker was killed" in capsys.readouterr().err
    for mistake in ("a mistake", "CUDA error: an illegal memory access was encountered"):
        with pytest.raises(RuntimeError, match=mistake), one_line_errors("train"):
            raise RuntimeError(mistake)


def test_bad_input_is_one_line(tmp_path: Path, photos: Path, refused: Refused) -> None:
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in refused("train", empty, "--out", out)
    assert "digits" in refused("train", "digitz", "--out", out)
    assert "1 image;" in refused("train", "digits[:1]", "--out", out)
    assert "size is 0" in refused("train", "digits[:40]", "--out", out, "--size", 0)
    assert "--k must be at least 1" in refused("analyze", "digits[:40]", "--out", out, "--k", 0)
    assert "at least 11 images" in refused("train", "digits[:8]", "--out", out, "--k", 10)
    assert "--h must be a number or auto or halved" in refused("train", "digits[:40]", "--out", out, "--h", "narrow")
    assert "--k must be a whole number or auto" in refused("train", "digits[:40]", "--out", out, "--k", "many")
    np.save(tmp_path / "nan.npy", np.full((20, 8, 8, 1), np.nan, np.float32))
    assert "finite" in refused("train", tmp_path / "nan.npy", "--out", out)
    np.save(tmp_path / "range.npy", np.full((20, 8, 8, 1), 7.0, np.float32))
    assert "7" in refused("train", tmp_path / "range.npy", "--out", out)
    np.save(tmp_path / "kind.npy", np.full((20, 8, 8, 1), 7, np.int64))
    assert "int64" in refused("train", tmp_path / "kind.npy", "--out", out)
    assert "divisible by 4" in refused("train", "digits[:40]", "--out", out, "--network", "unet", "--size", 18)
    assert "network must be text" in refused("train", "digits[:40]", "--out", out, "--set", "network=3")
    for width in ("null", "true", ".inf", "-1"):
        assert "h must be a number > 0" in refused("train", "digits[:40]", "--out", out, "--set", f"h={width}")
    assert "lr must be > 0 and finite" in refused("train", "digits[:40]", "--out", out, "--lr", "inf")
    for place in (photos, photos / "more"):
        assert "lies inside" in refused("sample", photos, "--closed-form", "empirical", "--out", place)
        assert "lies inside" in refused("sample", "digits", "--guard", photos, "--out", place)
    for share in ("half", "true", "2"):
        assert "augment must be a share" in refused("train", "digits[:40]", "--out", out, "--set", f"augment={share}")
    vp = ["--process", "vp", "--set", "betas=3"]
    assert "betas must be text" in refused("train", "digits[:40]", "--out", out, *vp)
    assert "is no value" in refused("train", "digits[:40]", "--out", out, "--set", "lr=[1")
    assert "lies inside" in refused("train", photos, "--out", photos / "run")
    assert "lies inside" in refused("train", "digits[:40]", "--heldout", photos, "--out", photos / "run")
    assert "nan.npy is a file" in refused("train", "digits[:40]", "--out", tmp_path / "nan.npy" / "run")
    assert "lies inside" in refused("train", f"{photos}[:20]", "--out", photos / "run")
    digits = ["digits[:40]", "digits[40:60]"]
    for words in (
        ["", digits[1]],
        [digits[0], ""],
        [*digits, "--heldout", ""],
        [*digits, "--heldout", digits[1], "--model", ""],
    ):
        refused("audit", *words, "--out", out)
    refused("analyze", digits[0], "--heldout", "", "--out", out)
    refused("train", digits[0], "--heldout", "", "--out", out)
    for name in ("model", "earlier"):
        (tmp_path / f"own-{name}" / name).mkdir(parents=True)
        assert f"already holds {name}" in refused("train", digits[0], "--out", tmp_path / f"own-{name}")
    assert "4294967295" in refused("sample", photos, "--out", out, "--seed", 1 << 32)
    assert "must be a number" in refused("audit", "digits[:50]", "digits[:20]", "--out", out, "--fail-above", "nan")
    file = tmp_path / "size.yaml"
    file.write_text("size: 8x8\n")
    assert "size is '8x8'" in refused("train", "digits[:40]", "--out", out, "--config", file)
    assert not out.exists()
    (photos / "img3.png").write_bytes(b"not an image")
    assert "img3.png" in refused("train", photos, "--out", out)
    Image.new("L", (9, 9)).save(photos / "img3.png")
    assert "--size" in refused("train", photos, "--out", out)
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in refused("train", "digits[:40]", "--out", file)
    assert "cannot" in refused("train", "digits[:40]", "--out", file / "below")


def test_a_process_says_one_line_and_ends_with_2() -> None:
    done = run("train", "digitz", "--out", "out", code=2)
    assert len(done.stderr.strip().splitlines()) == 1 and "digitz" in done.stderr and not done.stdout


def test_bad_usage_is_one_line(tmp_path: Path, trained: Path, refused: Refused) -> None:
    out = tmp_path / "out"
    assert "--obejctive" in refused("train", "digits[:40]", "--out", out, "--obejctive", "tangent")
    assert "did you mean objective" in refused("train", "digits[:40]", "--out", out, "--set", "objectiv=tangent")
    assert "on_copying, " in refused("train", "digits[:40]", "--out", out, "--set", "foo=1")  # all there are
    assert "tangent" in refused("train", "digits[:40]", "--out", out, "--objective", "tangentt")
    assert "already holds" in refused("train", "digits[:40]", "--out", trained)
    assert "not those" in refused("train", "digits[:50]", "--out", trained, "--resume")
    assert "nothing to resume" in refused("train", "digits[:40]", "--out", tmp_path / "none", "--resume")
    assert "no such" in refused("nosuchverb").lower()
    assert "holds no model" in refused("sample", tmp_path, "--out", out)
    broken = tmp_path / "broken"
    shutil.copytree(trained / "model", broken)
    (broken / "mlp" / "model.safetensors").write_bytes(b"short")
    assert "mlp/model.safetensors is damaged" in refused("sample", broken, "--out", out)
    shutil.copytree(trained, tmp_path / "edited")
    made = tmp_path / "edited" / "model"
    (made / "manifest.json").unlink()
    config = made / "mlp" / "config.json"
    config.write_text(config.read_text().replace('"width": ', '"width": 1'))
    assert "size mismatch" in refused("sample", tmp_path / "edited", "--out", out)
    (broken / "manifest.json").unlink()
    assert "no model that can be read" in refused("sample", broken, "--out", out)
    assert "not a folder" in refused("sample", tmp_path / "missing", "--out", out)
    closed = ["sample", "digits[:40]", "--out", out, "--closed-form", "empirical"]
    assert "--label needs a trained model" in refused(*closed, "--label", 3)
    assert "--weaker needs a trained model" in refused(*closed, "--weaker", trained)
    assert "draws at its own size" in refused("sample", trained, "--out", out, "--size", 8)
    assert "~nobody-at-all/x" in refused("analyze", "~nobody-at-all/x", "--out", out)
    assert "~nobody-at-all/x" in refused("train", "~nobody-at-all/x", "--out", out)
    assert "--guide needs a calibrated guard" in refused(*closed, "--guard", "digits[:40]", "--guide")
    assert "give --guard TRAIN" in refused("sample", trained, "--out", out, "--guard-rate", 0.1)
    assert "steps must be at least 0" in refused("sample", trained, "--out", out, "--steps", -1)
    assert not out.exists()
    study = ("study", "digits", "--heldout", "digits", "--out", out)
    assert "use a larger set" in refused(*study, "--n-train", 5000)
    assert "unknown encoder" in refused("audit", "digits[:50]", "digits[:20]", "--out", out, "--encoder", "pixelz")
    assert "8x8" in refused("audit", "digits[:50]", "mnist5k[:20]", "--out", out)
    gate = ("audit", "digits[:50]", "digits[:20]", "--out", out)
    assert "--model needs --heldout" in refused(*gate, "--model", trained)
    assert "--fail-above copy_auc=0.6 needs --heldout" in refused(*gate, "--fail-above", "copy_auc=0.6")
    compare = ("audit", "a.json", "b.json", "--compare", "--seed", 1)
    assert "cannot use --fail-above;" in refused(*compare, "--fail-above", 0.1)
    assert "cannot use --heldout, --encoder, --fdr;" in refused(
        *compare, "--heldout", "digits", "--encoder", "dct", "--fdr", 0.1
    )
    assert "cannot read a.json" in refused(*compare)


def test_a_damaged_state_file_is_named(tmp_path: Path, trained: Path, refused: Refused) -> None:
    run_, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(trained, run_)
    damages = {"{": "env.json is damaged", "[]": "env.json is damaged: no JSON object", "1: 2\n": "unknown setting 1"}
    for words, told in damages.items():
        file = run_ / ("config.yaml" if words.startswith("1") else "env.json")
        kept = file.read_text()
        file.write_text(words)
        assert told in refused("train", "digits[:40]", "--out", run_, "--resume")
        file.write_text(kept)
    (run_ / "model" / "temperance.json").write_text('{"shape": ')
    assert "temperance.json is damaged" in refused("sample", run_, "--out", out)
    shutil.rmtree(run_ / "model")
    assert "has not ended" in refused("sample", run_, "--out", out)
    run("sample", trained, "-n", 4, "--steps", 4, "--out", out, "--quiet")
    (out / "shards" / "plan.json").write_text("{")
    assert "plan.json is damaged" in refused("sample", trained, "-n", 4, "--steps", 4, "--out", out, "--resume")


@pytest.mark.parametrize("name", ["mlp/model.safetensors", "mlp/config.json", "temperance.json", "manifest.json"])
def test_a_damaged_model_is_named_and_one_without_a_manifest_is_taken(tmp_path: Path, trained: Path, name: str) -> None:
    shutil.copytree(trained / "model", tmp_path / "model")
    file = tmp_path / "model" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    told = file.with_name("temperance.json") if name == "manifest.json" else file
    with pytest.raises(ValueError, match=f"{told} is damaged"):
        load(tmp_path)
    shutil.copytree(trained / "model", tmp_path / "model", dirs_exist_ok=True)
    (tmp_path / "model" / "manifest.json").unlink()
    load(tmp_path)


def test_torchrun_does_not_start_what_uses_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="study uses all cores by itself: start it without torchrun"):
        study.study(study.Plan("digits", "digits"), out)
    with pytest.raises(ValueError, match="demo uses all cores by itself: start it without torchrun"):
        demo.demo(demo.Plan(), out)
    told = run("study", "digits", "--heldout", "digits", "--quick", "--out", out, code=2).stderr
    assert told.count("\n") == 1 and "start it without torchrun" in told
    assert not out.exists()
