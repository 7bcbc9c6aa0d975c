"""Freed memory goes back: in a process of its own, since the setting stays."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, torch
from pathlib import Path
from temperance.heap import return_freed
if sys.argv[1] == "yes":
    return_freed()
def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024
torch.ones(7_000_000)  # a freed block of 28 MB teaches glibc to keep blocks of that size
before = resident()
kept = []
for _ in range(20):
    kept.append((torch.ones(5_000_000), torch.ones(10)))
small = [one for _, one in kept]
del kept
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_freed_blocks_go_back_to_the_system():
    runs = (
        subprocess.run([sys.executable, "-c", CODE, asked], capture_output=True, text=True) for asked in ("yes", "no")
    )
    returned, kept = (float(run.stdout) for run in runs)
    assert returned < 40 < 70 < kept
