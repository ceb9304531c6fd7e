"""What is kept of freed memory, seen from outside: how many pages the system has to hand out."""

import platform
import subprocess
import sys

import pytest

from epp import heap

BODIES = 200
PROGRAM = f"""
import resource, sys
from epp import heap
if sys.argv[1] == "keep":
    assert heap.keep_freed()
def bodies():
    for _ in range({BODIES}):
        pieces = [bytes(20_000) for _ in range(40)]
        body = b"".join(pieces)
        del pieces, body
bodies()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bodies()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return the page faults that so many bodies of 800 kB cost a new process, after a first round."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_the_next_body_finds_the_memory_of_the_last():
    kept = faults("keep")
    assert kept < BODIES < faults("as it comes")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _name: object())
    assert not heap.keep_freed()
