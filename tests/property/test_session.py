"""Streams of any shape: the same pick and the same bytes however a body is cut, one outcome whatever happens, no exception ever."""

from hypothesis import given
from hypothesis import strategies as st

from epp.errors import NoEndpoint
from epp.extproc.events import (
    BodyMode,
    Decided,
    Event,
    Finish,
    Modes,
    Refused,
    Reject,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Schedule,
)
from epp.extproc.options import WireOptions
from epp.extproc.pump import Pump
from epp.extproc.session import Session
from epp.extproc.splice import ModelRestorer
from epp.extproc.usage import UsageWindow
from epp.model.budget import Budget
from epp.model.request import RequestHead
from tests.unit.extproc.stage import (
    REQUEST_TRAILERS,
    RESPONSE_TRAILERS,
    ListOutlet,
    StubDirector,
    decision,
    local_reply,
    request_body,
    request_headers,
    response_body,
    response_headers,
    streamed,
)

MODES = st.sampled_from(BodyMode)
BODY = b'{"model":"asked","prompt":"' + bytes(range(35, 91)) * 40 + b'"}'


def cuts(text: bytes) -> st.SearchStrategy[list[bytes]]:
    """Every way to cut a text into pieces, empty ones among them."""
    places = st.lists(st.integers(0, len(text)), max_size=6).map(sorted)
    return places.map(lambda at: [text[start:stop] for start, stop in zip([0, *at], [*at, len(text)], strict=True)])


@given(cuts(BODY), st.booleans(), st.booleans())
def test_any_chunking_gives_the_same_pick_and_the_same_bytes(pieces, end_is_empty, renamed):
    make = (lambda head, _: decision(head, model="asked", target="other", span=(9, 16))) if renamed else None
    director, outlet = StubDirector(make), ListOutlet()
    pump = Pump(outlet, director)
    pump.receive(request_headers())
    for piece in pieces[:-1]:
        pump.receive(request_body(piece))
        assert outlet.sent == []
    pump.receive(request_body(pieces[-1], end=not end_is_empty))
    if end_is_empty:
        pump.receive(request_body(end=True))
    ((_, seen),) = director.asked
    assert seen == BODY
    back, ends = streamed(outlet.responses)
    assert back == (BODY.replace(b"asked", b"other") if renamed else BODY)
    assert ends == [True]


EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(RequestHeaders, st.just(RequestHead()), st.booleans(), st.none() | st.builds(Modes, MODES, MODES)),
    st.builds(RequestBody, st.binary(max_size=30), st.booleans(), st.none() | st.just(())),
    st.just(RequestTrailers()),
    st.builds(
        ResponseHeaders,
        st.sampled_from([200, 204, 404, 503]),
        st.sampled_from([{}, {"server": "x", "content-type": "text/event-stream"}, {"content-type": "application/json"}]),
        st.booleans(),
    ),
    st.builds(ResponseBody, st.binary(max_size=30), st.booleans()),
    st.just(ResponseTrailers()),
    st.just(Refused(NoEndpoint("none"))),
    st.builds(lambda target: Decided(decision(target=target, span=(0, 0) if target else None)), st.sampled_from(["", "other"])),
)


@given(st.lists(EVENTS, max_size=12), st.none() | MODES)
def test_any_events_in_any_order_end_in_one_outcome(events, forced):
    session = Session(WireOptions(mode_forced=forced, body_bytes_max=64))
    outcomes, asked, over = 0, 0, False
    for event in events:
        actions = session.receive(event)
        assert not (over and actions), "nothing follows a rejection"
        outcomes += sum(isinstance(action, Finish) for action in actions)
        asked += sum(isinstance(action, Schedule) for action in actions)
        over = over or any(isinstance(action, Reject) for action in actions)
    outcomes += session.close() is not None
    assert outcomes == 1
    assert asked <= 1
    assert session.close() is None


MESSAGES = st.one_of(
    st.builds(lambda end, modes: request_headers(end=end, modes=modes), st.booleans(), st.none() | st.tuples(MODES, MODES)),
    st.builds(lambda data, end: request_body(data, end=end), st.binary(max_size=30), st.booleans()),
    st.builds(lambda data, end: response_body(data, end=end), st.binary(max_size=30), st.booleans()),
    st.builds(lambda end: response_headers({"content-type": "text/event-stream"}, end=end), st.booleans()),
    st.sampled_from([REQUEST_TRAILERS, RESPONSE_TRAILERS, local_reply(), b""]),
    st.binary(max_size=30),
)


@given(st.lists(MESSAGES | st.sampled_from(["hold", "release"]), max_size=12))
def test_no_bytes_make_the_pump_raise_or_account_twice(script):
    director, outlet, held = StubDirector(), ListOutlet(), Budget(50)
    pump = Pump(outlet, director, WireOptions(body_bytes_max=64), held)
    for step in script:
        if step == "hold":
            director.hold()
        elif step == "release":
            if director._answer is not None:
                director.release()
                director._answer = None
        elif not outlet.closed:
            pump.receive(step)
        assert 0 <= held.held <= 50
    pump.end()
    assert held.held == 0
    assert outlet.failed is None
    assert sorted(id(one) for one in director.decided) == sorted(id(one) for one, _ in director.finished)
    assert director.first_tokens <= 1


LINES = st.lists(
    st.sampled_from(
        [
            b'data: {"model":"served","choices":[]}\n\n',
            b'data:{"response":{"model":"served"},"usage":{"prompt_tokens":3,"completion_tokens":4}}\r\n\r\n',
            b"event: ping\n",
            b"data: [DONE]\n\n",
            b'data: {"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n',
            b": a comment of some length\n",
        ]
    ),
    max_size=8,
)


@given(st.data(), LINES)
def test_any_chunking_of_a_response_restores_and_counts_the_same(data, lines):
    text = b"".join(lines)
    restorer = ModelRestorer(served="served", asked="asked", events=True, bytes_max=1000)
    window = UsageWindow(64, 1000)
    out = b""
    for piece in data.draw(cuts(text)):
        window.feed(piece)
        out += restorer.feed(piece, end=False)
    out += restorer.feed(b"", end=True)
    assert out == text.replace(b'"served"', b'"asked"')
    whole = UsageWindow(64, 1000)
    whole.feed(text)
    assert window.find() == whole.find()
    assert (window.find() is not None) == (b"prompt_tokens" in text)
