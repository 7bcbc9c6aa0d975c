"""kill -9 at every step that a saving run takes on disk: a valid checkpoint is always there, and continues bit-equal.

Each victim is a fork of the test process, so nothing is imported anew; it kills itself right before its n-th operation,
or in the middle of its n-th write.
"""

import os
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from temperance.atomic import is_complete
from temperance.objective import NoiseConditional
from temperance.schedule import Edm
from temperance.train import Settings, checkpoints, read_metrics, train

POINTS = torch.linspace(-1, 1, 24).reshape(6, 1, 2, 2)
SETTINGS = Settings(steps=4, batch_size=4, warmup=1, checkpoint_every=1, log_every=1, keep=2)
START = 2
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"}


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(1))

    def forward(self, x, sigma):
        return x * self.weight + self.shift


def run(out, **options):
    return train(Tiny(), NoiseConditional(Edm()), POINTS, SETTINGS, out=out, progress=False, device="cpu", **options)


class Countdown:
    """Kills the process at the n-th operation on disk; without n, only counts them."""

    def __init__(self, n):
        self.n, self.seen = n, 0

    def __call__(self):
        if self.seen == self.n:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1

    def watch(self, folder):
        write, fsync = os.write, os.fsync

        def torn_write(handle, data):
            self()
            if self.seen == self.n:
                write(handle, data[: len(data) // 2])
            self()
            return write(handle, data)

        def counted_fsync(handle):
            self()
            fsync(handle)

        def hook(event, arguments):
            opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (opened or event in CHANGES) and str(folder) in str(arguments[0]):
                self()

        os.write, os.fsync = torn_write, counted_fsync
        sys.addaudithook(hook)  # cannot be taken back: this is for a process that ends soon


def fork(out, n):
    """Resume in a child that dies at operation n; returns how it ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            countdown = Countdown(n)
            countdown.watch(out)
            run(out, resume=True)
            out.with_suffix(".count").write_text(str(countdown.seen))
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every checkpoint of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("kill") / "whole"
    settings = Settings(**{**vars(SETTINGS), "keep": 9})
    train(Tiny(), NoiseConditional(Edm()), POINTS, settings, out=out, progress=False, device="cpu")
    return out


def begun(whole, out):
    """A run as it is after `START` steps."""
    out.mkdir()
    shutil.copytree(whole / f"checkpoint-{START}", out / f"checkpoint-{START}")
    rows = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(rows[:START]))
    return out


def contents(checkpoint):
    return {name: load_file(checkpoint / f"{name}.safetensors") for name in ("model", "ema", "optimizer")}


def same(one, two):
    return all(torch.equal(one[part][key], two[part][key]) for part in two for key in two[part])


@pytest.mark.slow
def test_a_valid_checkpoint_survives_a_kill_at_every_operation(whole, tmp_path, capsys):
    assert fork(begun(whole, tmp_path / "counted"), -1) == 0
    total = int((tmp_path / "counted.count").read_text())
    assert total >= 50
    reference = {path.name: contents(path) for path in checkpoints(whole)}
    left = set()
    for n in range(total):
        out = begun(whole, tmp_path / str(n))
        assert fork(out, n) == -signal.SIGKILL
        found = next(checkpoints(out))
        assert same(contents(found), reference[found.name]), n
        assert all(is_complete(path) for path in out.glob("checkpoint-*")), n
        left.add(found.name)
        run(out, resume=True)
        assert same(contents(next(checkpoints(out))), reference["checkpoint-4"]), n
        rows = read_metrics(out / "metrics.jsonl")
        assert [row["step"] for row in rows] == [1, 2, 3, 4], n
        if found.name != "checkpoint-4":  # otherwise nothing was left to do, so nothing was tidied up
            assert {p.name for p in out.iterdir()} == {"checkpoint-3", "checkpoint-4", "metrics.jsonl"}, n
        shutil.rmtree(out)
    assert left == {"checkpoint-2", "checkpoint-3", "checkpoint-4"}
    with capsys.disabled():
        print(f" [killed at {total} points]", end="")
