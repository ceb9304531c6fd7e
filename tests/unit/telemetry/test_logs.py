import io
import json
import logging
import threading
import time
from datetime import datetime

import pytest

from epp.errors import BadRequest
from epp.telemetry import logs
from epp.telemetry.logs import LINES_AT_ONCE, BatchHandler, DecisionLog, configure
from tests.unit.telemetry.facts import build_decision, build_outcome, build_rejected


def run_log(log: DecisionLog) -> None:
    """Tell the log of one of everything."""
    decision = build_decision()
    log.decided(decision, duration_s=0.0001, body_bytes=2000)
    log.finished(decision, build_outcome(), ttft_s=0.1, duration_s=1.0)
    log.rejected(build_rejected(request_id="r-2", priority=-1), BadRequest("the prompt is a secret"))


def written(*, verbosity: int, json: bool = True) -> str:
    stream = io.StringIO()
    undo = logs.configure(verbosity=verbosity, json=json, stream=stream)
    try:
        run_log(DecisionLog())
    finally:
        undo()
    return stream.getvalue()


def test_one_json_line_per_decision_with_the_facts_as_fields():
    decided, rejected = map(json.loads, written(verbosity=2).splitlines())
    assert decided.pop("at").endswith("+00:00")
    assert decided == {
        "level": "info",
        "logger": "epp.decisions",
        "message": "decided",
        "request_id": "r-1",
        "model": "tiny",
        "priority": 0,
        "endpoint": "default/server-1",
        "strategy": "approximate",
        "matched_tokens": 768,
        "prompt_tokens": 1024,
        "candidates": 3,
        "margin": 2.15,
        "body_bytes": 2000,
        "duration_us": 100.0,
    }
    assert (rejected["message"], rejected["request_id"], rejected["status"]) == ("rejected", "r-2", 400)
    assert rejected["priority"] == -1


@pytest.mark.parametrize(("verbosity", "lines"), [(0, 0), (1, 2), (2, 2), (3, 3), (9, 3)])
@pytest.mark.parametrize("json", [True, False])
def test_no_level_shows_the_prompt(verbosity, lines, json):
    text = written(verbosity=verbosity, json=json)
    assert len(text.splitlines()) == lines
    assert "helpful" not in text
    assert "secret" not in text


def test_text_lines_are_key_value_with_quotes_where_needed():
    stream = io.StringIO()
    undo = logs.configure(json=False, stream=stream)
    logging.getLogger("x").info("pool changed", extra={"added": 2, "why": "file changed", "none": ""})
    undo()
    assert stream.getvalue().split(" ", 1)[1] == 'info    pool changed logger=x added=2 why="file changed" none=""\n'


def test_what_json_has_no_form_for_is_its_text():
    stream = io.StringIO()
    undo = logs.configure(stream=stream)
    logging.getLogger("x").info("odd", extra={"path": io, "number": float("nan")})
    undo()
    assert json.loads(stream.getvalue())["path"].startswith("<module 'io'")


def test_an_exception_keeps_its_traceback_in_one_line():
    stream = io.StringIO()
    undo = logs.configure(stream=stream)
    try:
        {}["x"]
    except KeyError:
        logging.getLogger("x").exception("failed")
    undo()
    (line,) = stream.getvalue().splitlines()
    assert "KeyError" in json.loads(line)["exception"]


def test_an_exception_and_its_causes_are_shown_without_their_words():
    stream, prompt = io.StringIO(), "my secret"
    undo = logs.configure(stream=stream)
    failure = ValueError(f"cannot read {prompt}")
    failure.__cause__ = KeyError(prompt)
    logging.getLogger("x").error("failed", exc_info=failure)
    undo()
    shown = json.loads(stream.getvalue())["exception"]
    assert shown.index("ValueError") < shown.index("because of") < shown.index("KeyError")
    assert prompt not in stream.getvalue()


class Full(io.StringIO):
    """A stream that cannot be written to for a while."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_what_cannot_be_written_is_counted_and_the_next_lines_are_written():
    handler = BatchHandler(stream := Full())
    handler.setFormatter(logs.JsonFormatter())
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "lost"}))
    handler.flush()
    handler.flush()
    stream.full = False
    handler.handle(logging.makeLogRecord({"msg": "kept"}))
    deadline = time.monotonic() + 5
    while "dropped" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)  # for the thread, which is alive
    handler.close()
    kept, dropped = map(json.loads, stream.getvalue().splitlines())
    assert (kept["message"], dropped["message"], dropped["lines"]) == ("kept", "lines dropped", 3)


def test_undo_puts_logging_back():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure(verbosity=3, stream=io.StringIO())()
    assert (root.handlers[:], root.level) == before


class Blocked(io.StringIO):
    """A stream whose first write waits for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.gate.wait(10)
        return super().write(text)


def test_what_does_not_fit_is_dropped_and_counted():
    stream = Blocked()
    handler = BatchHandler(stream, lines_max=2)
    handler.handle(logging.makeLogRecord({"msg": "first"}))
    assert stream.entered.wait(10)
    for i in range(5):
        handler.handle(logging.makeLogRecord({"msg": str(i)}))
    stream.gate.set()
    handler.close()
    assert stream.getvalue().splitlines() == ["first", "0", "1", "lines dropped"]


def test_a_stream_that_blocks_does_not_block_those_who_log():
    stream = Blocked()
    undo = logs.configure(stream=stream)
    for _ in range(100):
        run_log(DecisionLog())
    assert stream.entered.wait(10)
    for _ in range(100):
        run_log(DecisionLog())
    assert not stream.getvalue()
    stream.gate.set()
    undo()
    assert len(stream.getvalue().splitlines()) == 400


def test_lines_that_are_made_together_keep_their_order_and_their_time():
    stream = io.StringIO()
    undo = configure(stream=stream)
    before = time.time()
    try:
        for number in range(2 * LINES_AT_ONCE + 3):
            DecisionLog().decided(build_decision(request_id=f"r{number}"), duration_s=0.0, body_bytes=0)
            if number == LINES_AT_ONCE + 1:
                logging.getLogger("epp").warning("between")
    finally:
        undo()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = [f"r{number}" for number in range(2 * LINES_AT_ONCE + 3)]
    names.insert(LINES_AT_ONCE + 2, "between")
    assert [line.get("request_id", line["message"]) for line in lines] == names
    stamps = [datetime.fromisoformat(line["at"]).timestamp() for line in lines]
    assert stamps == sorted(stamps)
    assert before - 0.001 <= stamps[0] <= stamps[-1] <= time.time()


def test_a_few_lines_do_not_wait_for_company_for_long():
    stream = Noticing()
    undo = configure(stream=stream)
    try:
        DecisionLog().decided(build_decision(), duration_s=0.0, body_bytes=0)
        assert stream.written.wait(10)
    finally:
        undo()


class Noticing(io.StringIO):
    """Says when something has been written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)
