"""The truth check: what the accurate strategy predicts is what the model server then says it had cached, token for token."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest

from epp.model.endpoint import Endpoint
from epp.model.request import RequestHead
from epp.parsers import openai_chat, openai_completions
from epp.prefix.accurate import Accurate
from epp.prefix.kv_sources import EVENTS_PORT_LABEL, REPLAY_PORT_LABEL
from epp.prefix.kv_stream import Standing
from epp.scrape.kv_subscriber import KvSubscriber
from epp.testing.engine import Pace
from epp.testing.kv_publisher import KvEventOptions
from epp.testing.model_server import ModelServer
from epp.testing.server_options import ServerOptions
from epp.testing.tokenizer import write_tokenizer
from epp.tokenizer import load_tokenizer

SYSTEM = {"role": "system", "content": "You are a helpful AI writer. Please write in a professional manner." + " river stone" * 30}


def user(text):
    return {"role": "user", "content": text}


class Pool:
    """As much of a snapshot as is looked at, of one endpoint."""

    def __init__(self, endpoint):
        self.endpoints = (endpoint,)
        self.columns = type("Columns", (), {"live": np.ones(1, np.bool_)})
        self.slots = np.arange(1)
        self.adapters = {}
        self.version = 1


class Rig:
    def __init__(self, server, client, tokenizer):
        self.server, self.client, self.tokenizer = server, client, tokenizer
        self.strategy = Accurate(speculative=False)
        self.subscriber = KvSubscriber(self.strategy)
        ports = {EVENTS_PORT_LABEL: str(server.publisher.port), REPLAY_PORT_LABEL: str(server.publisher.replay_port)}
        self.pool = Pool(Endpoint(name="x/stand-in", address="127.0.0.1", port=server.port, labels=ports))
        self.subscriber.sync(self.pool)

    @property
    def report(self):
        return self.strategy.feed.report()[0]

    async def settled(self):
        """Wait until everything that was published has arrived."""
        end = time.monotonic() + 10
        while not (self.report.standing is Standing.EXACT and self.report.blocks == len(self.server.engine.cache.held_keys)):
            assert time.monotonic() < end, f"{self.report} != {len(self.server.engine.cache.held_keys)}"
            await asyncio.sleep(0.002)

    def predicted(self, path, body):
        parse = openai_chat.parse if "chat" in path else openai_completions.parse
        request = parse(RequestHead(path=path), json.dumps(body).encode())
        if request.token_ids is None:
            request = _with(request, self.tokenizer.encode(request))
        found = self.strategy.match(self.strategy.prepare(request), request, self.pool, self.pool.slots)
        return 0 if found is None else found.tokens[0]

    async def send(self, path="/v1/chat/completions", **body):
        """Return (tokens predicted, tokens the server had, the answer)."""
        body = {"model": "tiny", "max_tokens": 20} | body
        await self.settled()
        predicted = self.predicted(path, body)
        async with self.client.post(path, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        return predicted, answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer

    async def fault(self, **order):
        async with self.client.post("/fault", json=order) as response:
            assert response.status == 200


def _with(request, tokens):
    from msgspec.structs import replace

    return replace(request, token_ids=tokens)


@asynccontextmanager
async def rig(directory, *, events=None, **options):
    write_tokenizer(directory)
    events = KvEventOptions(**(events or {}))
    server = ModelServer(ServerOptions(pace=Pace(time_scale=0.05), kv_events=events, **options))
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
            made = Rig(server, client, load_tokenizer(directory))
            try:
                yield made
            finally:
                await made.subscriber.close()
    finally:
        await server.stop()


async def conversation(made, **more):
    """Return (predicted, cached) of each turn of a chat that grows by the model's own answers."""
    seen, messages = [], [SYSTEM]
    for turn in range(4):
        messages.append(user(f"a line about the river number {turn}"))
        predicted, cached, answer = await made.send(messages=messages, **more)
        seen.append((predicted, cached))
        messages.append(answer["choices"][0]["message"])
    return seen


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


@pytest.mark.parametrize("maps", [True, False], ids=["maps", "arrays"])
@pytest.mark.parametrize("hash_bytes", [True, False], ids=["bytes", "integers"])
def test_conversations_in_every_shape(tmp_path, maps, hash_bytes):
    async def body():
        async with rig(tmp_path, events={"maps": maps, "hash_bytes": hash_bytes, "topic": "kv@pod@tiny"}) as made:
            seen = await conversation(made)
            assert all(predicted == cached for predicted, cached in seen), seen
            assert seen[0][1] == 0
            assert seen[3][1] > seen[2][1] > seen[1][1] > 100, "the model's own answers are cached, too"

    run(body())


def test_salts_adapters_and_token_ids(tmp_path):
    async def body():
        async with rig(tmp_path, loras=("sql",)) as made:
            made.pool.adapters["sql"] = (1, 0)
            messages = [SYSTEM, user("the same question")]
            kinds = ({}, {"cache_salt": "tenant"}, {"model": "sql"}, {"model": "sql", "cache_salt": "tenant"})
            for kind in kinds:
                assert (await made.send(messages=messages, **kind))[:2] == (0, 0)
            for kind in kinds:
                predicted, cached, _ = await made.send(messages=messages, **kind)
                assert predicted == cached > 0
            ids = list(range(100, 300))
            assert (await made.send("/v1/completions", prompt=ids))[:2] == (0, 0)
            assert (await made.send("/v1/completions", prompt=ids))[:2] == (192, 192)
            assert (await made.send("/v1/completions", prompt=ids[:96]))[:2] == (80, 80)
            text = "You are a helpful writer about the river" * 5
            await made.send("/v1/completions", prompt=text)
            predicted, cached, _ = await made.send("/v1/completions", prompt=text)
            assert predicted == cached > 0

    run(body())


def test_under_eviction(tmp_path):
    async def body():
        async with rig(tmp_path, blocks=90) as made:
            seen = []
            for _ in range(3):
                for number in range(6):
                    message = user(f"{number} " + " ocean forest" * (20 + 10 * number))
                    seen.append((await made.send(messages=[SYSTEM, message]))[:2])
                    seen.append((await made.send(messages=[message]))[:2])
            assert all(predicted == cached for predicted, cached in seen), seen
            assert any(cached for _, cached in seen)
            assert made.report.counts.removed > 40

    run(body())


@pytest.mark.parametrize("fault", [{"drop_event_batches": 2}, {"swap_event_batches": 1}, {"restart": True}, None])
def test_after_faults(tmp_path, fault):
    async def body():
        async with rig(tmp_path) as made:
            await conversation(made)
            if fault is None:
                async with made.client.post("/reset_prefix_cache") as response:
                    assert response.status == 200
            else:
                await made.fault(**fault)
            for number in range(3):
                body = {"model": "tiny", "max_tokens": 8, "messages": [SYSTEM, user(f"question {number}" + " stone" * 40)]}
                async with made.client.post("/v1/chat/completions", json=body) as response:
                    assert response.status == 200
            seen = await conversation(made)
            assert all(predicted == cached for predicted, cached in seen), seen
            assert seen[0][1] > 0

    run(body())
