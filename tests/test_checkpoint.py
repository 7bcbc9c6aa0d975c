"""Checkpoints on disks that are full, read-only or faulty, and after damage."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from temperance.atomic import is_complete
from temperance.objective import NoiseConditional
from temperance.schedule import Edm
from temperance.train import CannotSave, Settings, checkpoints, read_metrics, stopped_at, train
from temperance.train.checkpoint import newest, restore, save_checkpoint


def parts(width=8, seed=0):
    """A network, its average and an optimizer that has taken a step."""
    torch.manual_seed(seed)
    model, average = nn.Linear(width, width), nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, width)).square().mean().backward()
    optimizer.step()
    return model, average, optimizer


def save(out, step, **options):
    save_checkpoint(out, step, *parts(seed=step), keep=options.pop("keep", 2), **options)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    model, average, optimizer = parts()
    path = save_checkpoint(tmp_path, 7, model, average, optimizer, keep=2, more={"scaler": {"scale": 2.0}})
    other, other_average, other_optimizer = parts(seed=1)
    assert restore(path, other, other_average, other_optimizer) == {"step": 7, "scaler": {"scale": 2.0}}
    for one, two in ((model, other), (average, other_average)):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    old, new = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert old.keys() == new.keys()
    assert all(torch.equal(old[i][key], new[i][key]) for i in old for key in old[i])
    assert sorted(p.suffix for p in path.iterdir()) == [".json", ".json", *[".safetensors"] * 3]  # nothing that runs


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ValueError, match="another network.*size mismatch"):
        restore(newest(tmp_path), *parts(width=4))


def test_old_damaged_and_unfinished_ones_are_deleted_after_the_new_one_is_there(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    (tmp_path / "checkpoint-2" / "state.json").write_text("{}")
    (tmp_path / ".checkpoint-3.x1y2").mkdir()
    (tmp_path / "checkpoint-notes").mkdir()
    save(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4", "checkpoint-notes"]
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-3"]


def test_a_damaged_checkpoint_is_not_kept_in_the_place_of_a_valid_one(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    (tmp_path / "checkpoint-3" / "state.json").write_text("{}")
    save(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_a_disk_that_gives_back_other_bytes_is_noticed(tmp_path, monkeypatch):
    save(tmp_path, 1)
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data)[::-1]))
    with pytest.raises(CannotSave, match="does not read back.*checkpoint-1 is intact"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("nth", range(5))
def test_no_space_at_any_write_leaves_the_old_checkpoint(tmp_path, monkeypatch, nth):
    save(tmp_path, 1)
    calls, write = [], os.write

    def full(handle, data):
        calls.append(1)
        if len(calls) > nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CannotSave) as caught:
        save(tmp_path, 2)
    message = str(caught.value)
    assert "No space left" in message and "checkpoint-1 is intact" in message and "\n" not in message
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"] and is_complete(tmp_path / "checkpoint-1")


@pytest.fixture
def mounted(tmp_path):
    """A file system of 256 KiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except OSError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def run(out, **options):
    torch.manual_seed(0)
    network = nn.Linear(64, 64)  # 16 KiB; a checkpoint is 65 KiB

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x, sigma):
            return self.network(x.flatten(1)).reshape(x.shape)

    settings = Settings(steps=8, batch_size=4, checkpoint_every=2, log_every=1, keep=options.pop("keep", 9))
    points = torch.randn(8, 1, 8, 8).clamp(-1, 1)
    return train(Flat(), NoiseConditional(Edm()), points, settings, out=out, progress=False, device="cpu", **options)


def test_a_full_disk_stops_training_in_one_line_and_making_room_lets_it_resume(mounted):
    with pytest.raises(CannotSave) as caught:
        run(mounted / "run")
    message = str(caught.value)
    assert "No space left on device" in message and "checkpoint-6 is intact" in message and "\n" not in message
    assert [p.name for p in checkpoints(mounted / "run")] == ["checkpoint-6", "checkpoint-4", "checkpoint-2"]
    assert not list((mounted / "run").glob(".*"))
    shutil.rmtree(mounted / "run" / "checkpoint-2")
    run(mounted / "run", resume=True, keep=1)
    assert [p.name for p in checkpoints(mounted / "run")] == ["checkpoint-8"]
    assert [row["step"] for row in read_metrics(mounted / "run" / "metrics.jsonl")] == list(range(1, 9))


def test_a_read_only_disk_is_one_line_and_keeps_what_is_there(mounted):
    run(mounted / "run", keep=1)
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(CannotSave, match="Read-only file system; checkpoint-8 is intact"):
        save(mounted / "run", 9)
    with pytest.raises(OSError, match="Read-only file system: '.*metrics.jsonl"):
        run(mounted / "run", resume=True)
    assert newest(mounted / "run").name == "checkpoint-8"


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="already holds checkpoint-8; resume"):
        run(tmp_path)


def test_a_run_that_went_on_after_copies_was_not_ended_by_them(tmp_path):
    rows = ['{"step": 4, "stop": false}', '{"step": 8, "stop": true}', '{"step": 9, "loss": 0.1}']
    for more, ended in (([], 8), (['{"step": 12, "stop": false}'], None)):
        (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, *more]) + "\n")
        assert stopped_at(tmp_path) == ended


def test_a_torn_line_of_the_record_is_passed_over(tmp_path):
    run(tmp_path, keep=9)
    for path in list(checkpoints(tmp_path))[:2]:
        (path / "state.json").unlink()
    record = tmp_path / "metrics.jsonl"
    record.write_text(record.read_text()[:-20])
    run(tmp_path, resume=True)
    assert [row["step"] for row in read_metrics(record)] == list(range(1, 9))
    assert Path(tmp_path / "checkpoint-8").exists()
