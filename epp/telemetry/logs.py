"""Log lines as facts: a constant message, and everything that varies in fields of its own. One line per decision.

Any module logs through the standard library with `extra={...}`. `configure` collects the lines in a bounded queue; a thread
writes them, a batch at a time, so that a blocked stderr cannot block a request: lines are dropped instead, and counted.
Prompt text is in no line at any level, only its length in tokens; of an exception, its type and where it was raised, not its words.
"""

import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import msgspec

from epp.errors import RequestError
from epp.model.decision import Decision, Outcome
from epp.model.request import InferenceRequest, RequestHead
from epp.telemetry.sheets import runner_up

LINES_MAX = 10_000
"""Lines that may wait to be written."""
BATCH_S = 0.1
"""How long lines wait for company: one write for many of them costs a tenth of one write each."""
CAUSES_MAX = 5
"""Exceptions behind an exception that a line shows."""
LINES_AT_ONCE = 32
"""Lines of decisions that are made at once."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_LEVELS = {name: name.lower() for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}

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
    handler = BatchHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(level_for(verbosity))
    # No line names them, and to find them out for every record costs as much as the rest of it.
    unused = "logThreads", "logProcesses", "logMultiprocessing"
    for name in unused:
        setattr(logging, name, False)

    def undo() -> None:
        root.handlers[:], level = before
        root.setLevel(level)
        for name in unused:
            setattr(logging, name, True)
        handler.close()

    return undo


class BatchHandler(logging.Handler):
    """Keeps lines, and has a thread write them. The standard library's queue listener costs four times as much a line.

    They are made here and not in that thread: two threads that both compute take the interpreter from each other, and of a hundred
    requests one would wait for it some milliseconds. Those of decisions are made `LINES_AT_ONCE`, the last ones by the thread: code
    that has just run is in the processor's cache, and made one by one between requests a line takes three times as long.

    Args:
        stream: where to.
        lines_max: lines kept at most; the next are dropped, and a line says how many.
    """

    def __init__(self, stream: TextIO, *, lines_max: int = LINES_MAX) -> None:
        super().__init__()
        self._stream = stream
        self._lines_max = lines_max
        self._records: list[logging.LogRecord] = []
        """Of lines that are yet to be made; changed with the handler's lock held, as `emit` is called."""
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._writing = threading.Lock()
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep, or drop and count."""
        if len(self._lines) + len(self._records) >= self._lines_max:
            self._dropped += 1
            return
        self._records.append(record)
        # What other records say may be something else a moment later.
        if len(self._records) >= LINES_AT_ONCE or not isinstance(record, Line):
            self._make()
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Write everything that is kept. Called by the standard library when the process ends."""
        self.acquire()
        try:
            self._make()
        finally:
            self.release()
        with self._writing:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            lost = dropped + len(lines)
            if dropped:
                values = {"name": __name__, "levelname": "WARNING", "msg": "lines dropped", "lines": dropped}
                lines.append(self.format(logging.makeLogRecord(values)) + "\n")
            if lines:
                try:
                    self._stream.write("".join(lines))
                    self._stream.flush()
                except (OSError, ValueError):  # a full disk, a reader that has gone; the next lines may find it mended
                    self._dropped += lost

    def _make(self) -> None:
        """Make lines of the records."""
        records, self._records = self._records, []
        for record in records:
            try:
                self._lines.append(self.format(record) + "\n")
            except Exception:  # noqa: BLE001 - as the standard library's handlers: a line that cannot be made must not cost what it is about
                self.handleError(record)

    def close(self) -> None:
        """Write what is kept and end the thread."""
        self._closing.set()
        self._some.set()
        self._thread.join()
        self.flush()
        super().close()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(BATCH_S)
            self._some.clear()
            self.flush()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record says, in the order in which it is read."""
    fields: dict[str, Any] = {
        "at": _at(record.created),
        "level": _LEVELS.get(record.levelname) or record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if isinstance(record, Line):
        fields.update(record.facts())
    else:
        fields.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = _trace(record.exc_info[1])
    return fields


def _trace(error: BaseException) -> str:
    """Return where an exception and its causes were raised, and of what type. What they say is left out: it may quote a prompt."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < CAUSES_MAX:
        parts.append("".join(traceback.format_tb(cause.__traceback__)) + type(cause).__qualname__)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n\nbecause of\n\n".join(parts)


def _at(created_s: float) -> str:
    """Return a moment as ISO 8601 to the millisecond, UTC."""
    second, milli = divmod(int(created_s * 1000), 1000)
    return f"{_second(second)}.{milli:03}+00:00"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


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

    Cost: 0.1 us when the level is off; else about 12 us.
    """

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:
        """Log where a request goes."""
        if not decisions.isEnabledFor(logging.INFO):
            return
        decisions.handle(Line(logging.INFO, "decided", lambda: _decided(decision, duration_s, body_bytes)))

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """Log that the picker answered itself. The message for the client is left out: it may quote the request."""
        if decisions.isEnabledFor(logging.INFO):
            decisions.handle(Line(logging.INFO, "rejected", lambda: _rejected(request.head, request.model, error)))

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """Log the end of a request, at debug level."""
        if decisions.isEnabledFor(logging.DEBUG):
            decisions.handle(Line(logging.DEBUG, "finished", lambda: _finished(decision, outcome, ttft_s, duration_s)))


def _decided(decision: Decision, duration_s: float, body_bytes: int) -> dict[str, Any]:
    request, sheet = decision.request, decision.sheet
    margin, _ = runner_up(sheet, decision.slot)
    return {
        "request_id": request.head.request_id,
        "model": request.target_model,
        "priority": request.priority,
        "endpoint": decision.endpoint.name,
        "strategy": decision.strategy,
        "matched_tokens": round(decision.matched_tokens),
        "prompt_tokens": decision.prompt_tokens,
        "candidates": len(sheet.slots),
        "margin": round(margin, 4),
        "body_bytes": body_bytes,
        "duration_us": round(duration_s * 1e6, 1),
    }


def _rejected(head: RequestHead, model: str, error: RequestError) -> dict[str, Any]:
    return {
        "request_id": head.request_id,
        "model": model,
        "priority": head.priority,
        "status": error.status,
        "code": error.code,
        "reason": error.reason or "",
    }


def _finished(decision: Decision, outcome: Outcome, ttft_s: float | None, duration_s: float) -> dict[str, Any]:
    return {
        "request_id": decision.request.head.request_id,
        "endpoint": decision.endpoint.name,
        "end": outcome.end,
        "status": outcome.status,
        "cached_tokens": outcome.usage.cached_tokens if outcome.usage is not None else None,
        "ttft_ms": None if ttft_s is None else round(ttft_s * 1e3, 1),
        "duration_ms": round(duration_s * 1e3, 1),
    }


class Line(logging.LogRecord):
    """A record of a decision, without what the standard library finds out for each and is the same for all of these.

    Args:
        level: the standard library's.
        message: the constant part.
        facts: returns what varies; called when the line is made.
    """

    name = decisions.name
    args = exc_info = exc_text = stack_info = None
    pathname = filename = module = funcName = ""  # noqa: N815 - the standard library's name
    lineno = 0
    relativeCreated = msecs = 0.0  # noqa: N815 - as above
    thread = threadName = process = processName = taskName = None  # noqa: N815 - as above

    def __init__(self, level: int, message: str, facts: Callable[[], dict[str, Any]]) -> None:
        self.levelno = level
        self.levelname = logging.getLevelName(level)
        self.msg = message
        self.created = time.time()
        self.facts = facts
