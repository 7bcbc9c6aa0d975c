"""Jobs over several processes: in what order, and how they end."""

import time
from pathlib import Path

import pytest

from temperance.workers import spread


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


def test_no_jobs_start_nothing():
    assert list(spread(square, [], total=0, unit="job", label="test", progress=False)) == []
