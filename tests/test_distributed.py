"""Two processes (gloo) do what one does; both are forks of the test process, so nothing is imported anew."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from temperance.cli.input import load
from temperance.distance import neighbors
from temperance.network import Preconditioned, ResidualMlp
from temperance.objective import TangentSmoothed
from temperance.schedule import Edm
from temperance.train import NonFiniteLoss, Settings, checkpoints, read_metrics, train

torch.manual_seed(1)
POINTS = torch.rand(40, 1, 4, 4) * 2 - 1
OBJECTIVE = TangentSmoothed(Edm(), POINTS, neighbors(POINTS.flatten(1), 5), 0.5)
# 15 rows: 8 on one process and 7 on the other; an epoch of 40 ends in the middle of a batch.
SETTINGS = Settings(steps=8, batch_size=15, warmup=2, checkpoint_every=3, log_every=2, keep=9, weight_decay=0.01)


def run(out, settings=SETTINGS, objective=OBJECTIVE, seed=0, **options):
    torch.manual_seed(seed)
    denoiser = Preconditioned(ResidualMlp(16, width=16, depth=1), 0.5)
    return train(denoiser, objective, POINTS, settings, out=out, progress=False, device="cpu", **options)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(work, processes=2):
    """Run `work(rank)` in forked processes of one gloo group; returns their exit codes."""
    port, children = free_port(), []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_PORT": str(port),
                    "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1",
                }  # fmt: skip
                torch.set_num_threads(1)
                AcceleratorState._reset_state(reset_partial_state=True)
                code = work(rank) or 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def weights(checkpoint):
    return {part: load_file(checkpoint / f"{part}.safetensors") for part in ("model", "ema", "optimizer")}


def difference(one, two):
    one, two = weights(one), weights(two)
    return max(float((one[p][k] - two[p][k]).abs().max()) for p in one for k in one[p])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same run in one process and in two."""
    base = tmp_path_factory.mktemp("distributed")
    run(base / "one")

    def work(rank):
        run(base / "two")
        resumed = base / "resumed"
        if rank == 0:  # mid-epoch: 45 rows of 40 are done
            shutil.copytree(base / "two" / "checkpoint-3", resumed / "checkpoint-3")
        torch.distributed.barrier()
        run(resumed, resume=True, seed=9)
        parted = Settings(**{**vars(SETTINGS), "accumulate": 3, "noise_groups": 4})
        run(base / "parted", parted)

    assert together(work) == [0, 0]
    return base


def test_two_processes_equal_one(both):
    for step in (3, 6, 8):
        assert difference(both / "one" / f"checkpoint-{step}", both / "two" / f"checkpoint-{step}") <= 1e-6
    one, two = (read_metrics(both / name / "metrics.jsonl") for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [2, 4, 6, 8]
    for a, b in zip(one, two):  # the record is of the global batch
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-6)


def test_two_processes_resume_bit_equal_in_the_middle_of_an_epoch(both):
    assert difference(both / "two" / "checkpoint-8", both / "resumed" / "checkpoint-8") == 0


def test_groups_of_noise_and_accumulated_parts_do_not_depend_on_the_processes(both, tmp_path):
    grouped = Settings(**{**vars(SETTINGS), "noise_groups": 4})
    run(tmp_path, grouped)
    assert difference(both / "parted" / "checkpoint-8", tmp_path / "checkpoint-8") <= 1e-6
    assert difference(both / "one" / "checkpoint-8", tmp_path / "checkpoint-8") > 1e-4  # but on their number


def test_only_the_first_process_writes(both):
    assert sorted(p.name for p in (both / "two").iterdir()) == [
        "checkpoint-3", "checkpoint-6", "checkpoint-8", "metrics.jsonl",
    ]  # fmt: skip


def test_a_loss_that_is_not_a_number_on_one_process_stops_both(tmp_path):
    class Broken:
        def __call__(self, mu, index, generator):
            target = OBJECTIVE(mu, index, generator)
            target.denoised[12] = float("nan")  # a row of the second process
            return target

    def work(rank):
        try:
            run(tmp_path, Settings(steps=9, batch_size=15, max_skipped=1), Broken())
        except NonFiniteLoss as error:
            return 3 if "step 2" in str(error) else 4

    assert together(work) == [3, 3]
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert found["step"] == 2 and len(found["indices"]) == len(found["sigma"]) == 15
    assert found["not_finite"] == [found["indices"][12]]


def test_asking_for_two_processes_and_getting_one_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="asked for 2 processes, got 1.*torchrun"):
        run(tmp_path, Settings(steps=2, processes=2))
    # What `accelerate launch --cpu --num_processes 2` sets for the one process that it starts.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(ValueError, match="asked for several processes, got 1.*torchrun"):
        run(tmp_path, Settings(steps=2))


def test_every_part_needs_a_row(tmp_path):
    with pytest.raises(ValueError, match="batch_size=3 is less than 1 processes x accumulate=4"):
        run(tmp_path, Settings(steps=2, batch_size=3, accumulate=4))
    assert not list(checkpoints(tmp_path))


def test_the_first_process_tells_of_files_that_are_left_out(tmp_path, photos, monkeypatch, capsys):
    (photos / "img3.png").write_bytes(b"not an image")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert len(load(str(photos), None, None, "quarantine", tmp_path, minimum=1, quiet=True)) == 13
        first = rank == "0"
        assert ("1 files of" in capsys.readouterr().err) == (tmp_path / "quarantine.jsonl").exists() == first


@pytest.mark.slow
def test_torchrun_trains_from_the_command_line(tmp_path):
    out = tmp_path / "run"
    command = [
        Path(sys.executable).with_name("torchrun"), "--nproc-per-node", 2, "--master-port", free_port(),
        "-m", "temperance", "train", "digits[:40]", "--out", out, "--k", 4, "--steps", 6, "--batch-size", 10,
        "--objective", "conditional", "--device", "cpu", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "world size 2" in done.stderr
    assert json.loads(done.stdout)["world_size"] == 2  # one object: the other process is silent
    assert json.loads((out / "env.json").read_text())["world_size"] == 2
    assert (out / "model" / "temperance.json").exists()
