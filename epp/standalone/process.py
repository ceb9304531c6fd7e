"""A child process whose output is kept as a bounded tail: shown when something goes wrong, silent when nothing does.

The launcher of Envoy, `epp standalone` and the demo start their processes through it. It protects from pipes that fill up (a thread
drains them), from logs without end (lines and their length are bounded) and from children that outlive a failed start, or us
(`tether`).
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

from epp.errors import LaunchError
from epp.standalone import tether

TAIL_LINES_MAX = 400
LINE_CHARS_MAX = 2000
POLL_INTERVAL_S = 0.02
KILL_TIMEOUT_S = 10.0


class Child:
    """A running process, which ends with ours, even where we are killed.

    Args:
        name: what it is called in messages.
        command: program and arguments.
        environment: variables added to ours.
        show: called with every line as it comes, from the draining thread; None keeps quiet.

    Raises:
        LaunchError: there is no such program, or this is not the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        show: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._show = show
        self._tail: deque[str] = deque(maxlen=TAIL_LINES_MAX)
        if threading.current_thread() is not threading.main_thread():
            raise LaunchError(f"{name} has to be started from the main thread: it ends with the thread that started it")
        if shutil.which(command[0]) is None:
            raise LaunchError(f"{name} cannot be started: no program {command[0]}")
        tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own command line, and no shell reads it
                tethered,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C at our terminal is for us, who end our children in order
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise LaunchError(f"{name} cannot be started: {error}") from error
        assert self._process.stdout is not None
        self._drain = threading.Thread(target=self._read, args=(self._process.stdout,), name=f"{name}-output", daemon=True)
        self._drain.start()

    def _read(self, output: IO[str]) -> None:
        """Take lines until the process closes its output."""
        with output:
            while line := output.readline(LINE_CHARS_MAX):
                self._tail.append(line.rstrip("\n"))
                if self._show is not None:
                    with suppress(OSError):  # who read it has gone; we read on, or the child would wait for us
                        self._show(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self._process.poll()

    def tail(self) -> str:
        """Return the last lines of standard output and error, together."""
        return "\n".join(tuple(self._tail))

    def _words(self) -> str:
        """The tail as the end of a message; nothing where everything has been shown already."""
        return "" if self._show is not None else f"\n{self.tail()}"

    def signal(self, number: int) -> None:
        """Send a signal; does nothing when the process has ended."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Return the exit code once the process has ended by itself.

        Raises:
            LaunchError: it still runs after `timeout_s`.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LaunchError(f"{self.name} still runs after {timeout_s:g} s\n{self.tail()}") from error
        self._drain.join(timeout=1)
        return code

    def stop(self, grace_s: float = 5) -> int:
        """Ask the process to end, make it end after `grace_s`, and return its exit code."""
        self._process.terminate()
        try:
            return self.wait(grace_s)
        except LaunchError:
            self._process.kill()
            return self.wait(KILL_TIMEOUT_S)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Return once `condition` holds.

        Raises:
            LaunchError: the process ended first, or `timeout_s` passed; the message ends with the tail of its output.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.exit_code is not None:
                self._drain.join(timeout=1)
                raise LaunchError(f"{self.name} ended with code {self.exit_code} before {what}{self._words()}")
            if time.monotonic() > deadline:
                raise LaunchError(f"{self.name}: {what} took more than {timeout_s:g} s{self._words()}")
            time.sleep(POLL_INTERVAL_S)
