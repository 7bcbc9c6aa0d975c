"""Jobs over several processes: in what order, and how they end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from temperance.workers import ANNOUNCED, spread


def square(x, tick):
    tick(1)
    return x * x


def fail_soon(x, done, tick):
    if x == 0:
        raise ValueError("the first job failed")
    for _ in range(300):
        tick(1)
        time.sleep(0.1)
    Path(done).touch()


@pytest.mark.slow
def test_every_result_comes_back():
    found = spread(square, [(i,) for i in range(4)], total=4, unit="job", label="test", progress=False)
    assert sorted(found) == [0, 1, 4, 9]


@pytest.mark.slow
def test_a_failure_stops_the_others_and_leaves_no_noise(capfd, tmp_path):
    done = tmp_path / "done"
    with pytest.raises(ValueError, match="the first job failed"):
        list(spread(fail_soon, [(i, str(done)) for i in range(3)], total=3, unit="job", label="test", progress=False))
    assert not done.exists()
    assert "Traceback" not in capfd.readouterr().err


def write_and_wait(folder, i, tick):
    (Path(folder) / str(i)).write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path):
    jobs = [(str(tmp_path), i) for i in range(2)]
    code = "from tests.test_workers import *\nif __name__ == '__main__':\n"
    code += f"    list(spread(write_and_wait, {jobs}, total=2, unit='job', label='', progress=False))"
    (tmp_path / "main.py").write_text(code)
    root = Path(__file__).parent.parent
    first = subprocess.Popen([sys.executable, tmp_path / "main.py"], env={**os.environ, "PYTHONPATH": str(root)})
    worker = tmp_path / "0"
    _until(lambda: worker.exists() and worker.read_text())
    started = [process.pid for process in psutil.Process(first.pid).children(recursive=True)]
    assert int(worker.read_text()) in started and len(started) > 2  # workers, and who passes on their ticks
    first.kill()
    first.wait()
    _until(lambda: not any(map(_runs, started)))


def _until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_no_jobs_start_nothing():
    assert list(spread(square, [], total=0, unit="job", label="test", progress=False)) == []


def announced(tick):
    return [name for name in ANNOUNCED if name in os.environ]


@pytest.mark.slow
def test_a_worker_is_none_of_the_processes_of_torchrun(monkeypatch):
    for name in ANNOUNCED:
        monkeypatch.setenv(name, "1")
    assert list(spread(announced, [()], total=1, unit="job", label="test", progress=False)) == [[]]
