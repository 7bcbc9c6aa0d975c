"""Freed memory goes back: in a process of its own, since the setting stays."""

import subprocess
import sys

import pytest

NO_MALLINFO2 = 77

# A freed block of 28 MB teaches glibc to keep blocks of that size in its heap. What a block of 20 MB then adds to
# `hblkhd`, the bytes in blocks mapped one by one, tells whether freeing it gives it back: no layout of the heap, which
# differs between machines, comes in.
CODE = """
import ctypes, sys, torch
from temperance.heap import return_freed

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

try:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
except AttributeError:
    sys.exit(77)
mallinfo2.restype = Mallinfo2
if sys.argv[1] == "yes":
    return_freed()
torch.ones(7_000_000)
before = mallinfo2().hblkhd
block = torch.ones(5_000_000)
mapped = mallinfo2().hblkhd - before
del block
print(mapped / 1e6, (mallinfo2().hblkhd - before) / 1e6)
"""


def test_freed_blocks_go_back_to_the_system():
    runs = [
        subprocess.run([sys.executable, "-c", CODE, asked], capture_output=True, text=True) for asked in ("yes", "no")
    ]
    if runs[0].returncode == NO_MALLINFO2:
        pytest.skip("no glibc of 2.33 or later: the setting has no effect to see")
    (mapped, left), (kept, _) = ([float(one) for one in run.stdout.split()] for run in runs)
    assert (round(mapped), left, kept) == (20, 0, 0)
