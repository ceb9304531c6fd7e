"""Programs that are not among the project's dependencies: brought by scripts of `hack/`, or the machine's own."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

HACK = Path(__file__).parents[2] / "hack"
BRING_S = 1200
NOT_TO_BE_HAD = 3


def bring(script: str) -> Path:
    """What a script of `hack/` prints. Skips, or fails with `EPP_NOTHING_SKIPPED`, where it says that it cannot be had."""
    done = subprocess.run([HACK / script], capture_output=True, text=True, timeout=BRING_S, check=False)
    if done.returncode == NOT_TO_BE_HAD:
        go_without(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def installed(program: str) -> str:
    """Where a program is. Skips, or fails with `EPP_NOTHING_SKIPPED`, where it is not installed."""
    return shutil.which(program) or go_without(f"{program} is not installed")


def go_without(why: str) -> NoReturn:
    if "EPP_NOTHING_SKIPPED" in os.environ:
        pytest.fail(why, pytrace=False)
    pytest.skip(f"NOT TESTED: {why}")
