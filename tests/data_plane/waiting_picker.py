"""A picker whose decisions wait for the test: `epp serve` with a tokenizer that is done when a file says so.

Run as a program. In the directory `EPP_TEST_GATE` it leaves `waiting` when a request waits and `given-up` when it does so no more;
it goes on when `go` appears. Every other part is the product's.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from epp import app
from epp.cli import main
from epp.live.assembly import Prepared, prepare
from epp.model.request import InferenceRequest
from epp.scheduling.build import Plan
from epp.tokenizer import TokenizerCounts

LOOK_S = 0.01


class Gate:
    """A tokenizer that has no tokens, and says so when it is let."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.counts = TokenizerCounts()

    def encode(self, request: InferenceRequest, done: Callable[[None], None]) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def look() -> None:
            nonlocal timer
            if (self._directory / "go").exists():
                done(None)
            else:
                timer = loop.call_later(LOOK_S, look)

        def give_up() -> None:
            timer.cancel()
            (self._directory / "given-up").touch()

        timer = loop.call_later(LOOK_S, look)
        (self._directory / "waiting").touch()
        return give_up

    def close(self) -> None:
        """Nothing to stop."""


def prepare_with_gate(plan: Plan, old: Prepared | None = None) -> Prepared:
    """What a plan needs, with the gate for a tokenizer."""
    return replace(prepare(plan, old), tokenizer=Gate(Path(os.environ["EPP_TEST_GATE"])))


if __name__ == "__main__":
    app.prepare = prepare_with_gate
    sys.exit(main())
