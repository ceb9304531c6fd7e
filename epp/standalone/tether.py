"""Becomes a command that ends with the process that started it, however that one ends: `python tether.py PARENT COMMAND...`.

A process that is killed ends nobody. So the kernel is asked to (PR_SET_PDEATHSIG in prctl(2)), by a program of its own, since what
may run between fork and exec beside threads is very little; the wish outlives exec. The kernel goes by the *thread* that forked.
It kills rather than asks: nobody reads any more what such a command writes, and its ports are wanted.

`Child` starts everything through this file, by its path and without site-packages: 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Become the command; does not return."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):  # elsewhere than on Linux nobody can be asked
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("whoever wanted this has ended")  # before the kernel was asked
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so
    try:
        os.execvp(command[0], command)  # noqa: S606  # our own command line
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
