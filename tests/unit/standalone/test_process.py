"""A child's output is kept, bounded, and shown when the child fails."""

import signal
import sys
import time
from pathlib import Path

import pytest

from epp.errors import LaunchError
from epp.standalone.process import LINE_CHARS_MAX, TAIL_LINES_MAX, Child


def python(source: str, **options) -> Child:
    return Child("child", [sys.executable, "-u", "-c", source], **options)


def test_keeps_both_outputs_and_the_exit_code():
    child = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert child.wait(10) == child.exit_code == 3
    assert sorted(child.tail().split()) == ["err", "out"]


def test_tail_is_bounded_in_lines_and_in_line_length():
    child = python(f"print('x' * 100_000)\nfor i in range({TAIL_LINES_MAX} + 50): print(i)")
    assert child.wait(10) == 0
    lines = child.tail().split("\n")
    assert len(lines) == TAIL_LINES_MAX
    assert lines[-1] == str(TAIL_LINES_MAX + 49)
    assert max(map(len, lines)) <= LINE_CHARS_MAX


def test_shows_lines_as_they_come():
    shown: list[str] = []
    child = python("print('a'); print('b')", show=shown.append)
    child.wait(10)
    assert shown == ["a", "b"]


def test_goes_on_reading_when_nobody_takes_what_it_shows():
    def show(line: str) -> None:
        raise BrokenPipeError

    child = python("for _ in range(1000): print('x' * 1000)", show=show)
    assert child.wait(10) == 0


def test_gives_the_child_our_environment_and_more():
    child = python("import os; print(os.environ['MORE'], 'PATH' in os.environ)", environment={"MORE": "yes"})
    child.wait(10)
    assert child.tail() == "yes True"


def test_waits_for_a_condition():
    child = python("import signal; print('up'); signal.pause()")
    child.wait_until(lambda: "up" in child.tail(), 10, "it is up")
    assert child.exit_code is None
    assert child.stop() == -signal.SIGTERM


def test_a_child_that_ends_early_is_reported_with_its_last_words():
    child = python("import sys; print('no room'); sys.exit(4)")
    with pytest.raises(LaunchError, match=r"child ended with code 4 before it is up\nno room"):
        child.wait_until(lambda: False, 10, "it is up")


def test_a_child_that_takes_too_long_is_reported():
    child = python("import signal; signal.pause()")
    try:
        with pytest.raises(LaunchError, match=r"child: it is up took more than 0\.1 s"):
            child.wait_until(lambda: False, 0.1, "it is up")
    finally:
        child.stop()


def test_a_child_that_ignores_the_request_is_killed():
    child = python(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); [signal.pause() for _ in range(9)]"
    )
    child.wait_until(lambda: "deaf" in child.tail(), 10, "it is deaf")
    assert child.stop(grace_s=0.2) == -signal.SIGKILL


def test_a_program_that_does_not_exist_is_a_launch_error():
    with pytest.raises(LaunchError, match="child cannot be started"):
        Child("child", ["/nowhere/program"])


def test_a_program_that_cannot_be_run_says_so(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF and nothing else")
    program.chmod(0o755)
    child = Child("child", [str(program)])
    assert child.wait(10) == 1
    assert child.tail() == f"{program}: Exec format error"


def test_signals_are_as_every_program_expects_them():
    child = Child("child", ["grep", "SigIgn", "/proc/self/status"])
    child.wait(10)
    ignored = int(child.tail().split()[1], 16)
    assert not any(ignored >> number - 1 & 1 for number in (signal.SIGPIPE, signal.SIGXFSZ)), "those that Python ignores"


PARENT = """
import sys, signal
from epp.standalone.process import Child
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1); signal.pause()"
child = Child("child", [sys.executable, "-u", "-c", deaf])
child.wait_until(lambda: bool(child.tail()), 10, "it runs")
print(child.pid)
signal.pause()
"""


def test_a_child_ends_with_a_parent_that_is_killed():
    parent = python(PARENT)
    parent.wait_until(lambda: bool(parent.tail()), 10, "it has a child")
    grandchild = int(parent.tail())
    assert runs(grandchild)
    parent.signal(signal.SIGKILL)
    parent.wait(10)
    deadline = time.monotonic() + 5
    while runs(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its exit code."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False
