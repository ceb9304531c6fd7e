"""Log lines as facts: a constant message, and everything that varies in fields of its own. One line per decision.

Any module logs through the standard library with `extra={...}`. `configure` sends that to a bounded queue; a thread of its own
formats and writes, so that neither costs the event loop anything, and a blocked stderr cannot block a request: lines are dropped
instead, and counted. Prompt text is in no line at any level: only its length in tokens.
"""

import logging
import logging.handlers
import queue
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from epp.errors import RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import RequestHead
from epp.telemetry.sheets import runner_up

QUEUE_LINES_MAX = 10_000
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

decisions = logging.getLogger("epp.decisions")


def level_for(verbosity: int) -> int:
    """Return the level for `-v`: 0 warnings, 1 and 2 (the default) decisions and changes of state, 3 and up everything."""
    return logging.WARNING if verbosity <= 0 else logging.INFO if verbosity <= 2 else logging.DEBUG


def configure(*, verbosity: int = 2, json: bool = True, stream: TextIO | None = None) -> Callable[[], None]:
    """Send all logging of the process to `stream` (stderr) through a queue.

    Args:
        verbosity: see `level_for`.
        json: one object a line; else `key=value` for people.
        stream: where to.

    Returns:
        A function that writes out what is queued and undoes all of this.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    lines: queue.Queue[logging.LogRecord] = queue.Queue(QUEUE_LINES_MAX)
    listener = logging.handlers.QueueListener(lines, handler)
    queued = DroppingHandler(lines)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = [queued]
    root.setLevel(level_for(verbosity))
    listener.start()

    def undo() -> None:
        root.handlers[:], level = before
        root.setLevel(level)
        listener.stop()

    return undo


class DroppingHandler(logging.handlers.QueueHandler):
    """Queues records as they are, and drops what does not fit."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record untouched: formatting is the writer's work."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue, or drop and count."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
        else:
            if self.dropped:
                record.lines_dropped, self.dropped = self.dropped, 0


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record says, in the order in which it is read."""
    fields: dict[str, Any] = {
        "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    fields.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return msgspec.json.encode(fields_of(record), enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """`time level message key=value ...`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; values with spaces are quoted."""
        fields = fields_of(record)
        head = f"{fields.pop('at')} {fields.pop('level'):7} {fields.pop('message')}"
        return " ".join([head, *(f"{name}={_quoted(value)}" for name, value in fields.items())])


def _quoted(value: object) -> str:
    text = str(value)
    return msgspec.json.encode(text).decode() if not text or any(c.isspace() or c in '"=' for c in text) else text


class DecisionLog:
    """One line per decision; one more per end at debug level. An `Observer` of the director.

    Cost: 0.1 us when the level is off; else about 10 us, most of it the standard library's record.
    """

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:
        """Log where a request goes."""
        if not decisions.isEnabledFor(logging.INFO):
            return
        margin, _ = runner_up(decision.sheet, decision.slot)
        facts = {
            "request_id": decision.request.head.request_id,
            "model": decision.request.target_model,
            "endpoint": decision.endpoint.name,
            "strategy": decision.strategy,
            "matched_tokens": round(decision.matched_tokens),
            "prompt_tokens": decision.prompt_tokens,
            "candidates": len(decision.sheet.slots),
            "margin": round(margin, 4),
            "body_bytes": body_bytes,
            "duration_us": round(duration_s * 1e6, 1),
        }
        decisions.info("decided", extra=facts)

    def rejected(self, head: RequestHead, error: RequestError) -> None:
        """Log that the picker answered itself. The message for the client is left out: it may quote the request."""
        if decisions.isEnabledFor(logging.INFO):
            facts = {"request_id": head.request_id, "status": error.status, "code": error.code, "reason": error.reason or ""}
            decisions.info("rejected", extra=facts)

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """Log the end of a request, at debug level."""
        if not decisions.isEnabledFor(logging.DEBUG):
            return
        facts = {
            "request_id": decision.request.head.request_id,
            "endpoint": decision.endpoint.name,
            "end": outcome.end,
            "status": outcome.status,
            "cached_tokens": outcome.usage.cached_tokens if outcome.usage is not None else None,
            "ttft_ms": None if ttft_s is None else round(ttft_s * 1e3, 1),
            "duration_ms": round(duration_s * 1e3, 1),
        }
        decisions.debug("finished", extra=facts)
