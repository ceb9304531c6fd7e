import asyncio
from itertools import pairwise

from epp.testing.engine import Pace
from epp.testing.load_client import LoadClient
from epp.testing.model_server import ModelServer
from epp.testing.server_options import ServerOptions
from epp.testing.workload import Conversation, Turn


def send(conversations, fault=None):
    async def go():
        server = ModelServer(ServerOptions(pace=Pace(time_scale=0.2)))
        await server.start()
        if fault is not None:
            server.faults.order(fault)
        told = []
        try:
            async with asyncio.timeout(20):
                results = await LoadClient(f"http://127.0.0.1:{server.port}", "tiny", told.append).run(conversations)
        finally:
            await server.stop()
        assert sorted(map(id, told)) == sorted(map(id, results))
        return results, f"127.0.0.1:{server.port}"

    return asyncio.run(go())


def turns(*texts, at_s=0.0):
    return tuple(Turn(at_s=at_s, text=text, max_tokens=20) for text in texts)


def test_a_later_turn_holds_the_answers_and_finds_them_cached():
    results, server = send([Conversation(kind="chat", system="sun " * 40, turns=turns("a tree", "a stone", "a boat"))])
    assert [len(result.messages) for result in results] == [2, 4, 6]
    assert [result.error for result in results] == [""] * 3
    assert results[1].messages[2]["content"].count(" ") == 20
    for before, after in pairwise(results):
        computed = before.prompt_tokens + before.completion_tokens - 1
        assert after.cached_tokens == computed // 16 * 16
        assert after.sent_s >= before.sent_s + before.e2e_s
    assert {result.served_by for result in results} == {server}


def test_times_are_those_of_the_engine():
    (result,), _ = send([Conversation(kind="x", turns=turns("tree " * 500))])
    pace = Pace(time_scale=0.2)
    prefill_s = pace.step_s(prefill=result.prompt_tokens, decodes=0, context=0, past=0)
    assert prefill_s <= result.ttft_s < prefill_s + 0.2
    assert len(result.gaps_s) <= 19
    assert result.e2e_s >= prefill_s + 19 * pace.step_s(prefill=0, decodes=1, context=500, past=0) - 0.01


def test_requests_leave_when_they_are_due_whatever_became_of_others():
    several = [Conversation(kind="x", turns=turns("tree", at_s=number * 0.02)) for number in range(5)]
    results, _ = send(several)
    assert all(result.sent_s >= number * 0.02 for number, result in enumerate(results))
    assert results[-1].sent_s < 1.0


def test_failures_are_named_and_end_a_conversation():
    from epp.testing.faults import FaultOrder

    for fault, error in ((FaultOrder(status=503), "status 503"), (FaultOrder(reset="middle"), "ClientPayloadError")):
        results, _ = send([Conversation(kind="chat", turns=turns("tree", "stone"))], fault)
        assert [result.error for result in results] == [error]
