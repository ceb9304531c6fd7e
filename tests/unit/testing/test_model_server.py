import asyncio
import json
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

from epp.testing.engine import Pace
from epp.testing.kv_publisher import KvEventOptions
from epp.testing.model_server import ModelServer
from epp.testing.server_options import ServerOptions
from epp.testing.tokenizer import encode, render_chat

FAST = Pace(time_scale=0.1)
CHAT = [
    {"role": "system", "content": "You are a helpful AI writer. Please write in a professional manner." + " river stone" * 40},
    {"role": "user", "content": "a line about rivers"},
]


@asynccontextmanager
async def serving(**options):
    server = ModelServer(ServerOptions(**{"pace": FAST, **options}))
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
            yield server, client
    finally:
        await server.stop()


def run(body, **options):
    async def go():
        async with asyncio.timeout(20), serving(**options) as (server, client):
            return await body(server, client)

    return asyncio.run(go())


async def until(condition):
    """Poll; `run` bounds the wait."""
    while not condition():  # noqa: ASYNC110 - nothing tells when an engine's state changes
        await asyncio.sleep(0.001)


async def ask(client, path="/v1/chat/completions", *, status=200, headers=None, **body):
    body = {"model": "tiny", "max_tokens": 4} | body
    if not {"prompt", "messages"} & set(body):
        body["messages"] = CHAT
    async with client.post(path, json=body, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.json()


def test_the_same_chat_twice_is_cached_up_to_its_last_full_block():
    async def body(_, client):
        first, second = await ask(client), await ask(client)
        total = len(encode(render_chat(CHAT)))
        assert first["usage"] == {
            "prompt_tokens": total,
            "total_tokens": total + 4,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == (total - 1) // 16 * 16
        assert first["choices"] == second["choices"]
        salted = await ask(client, cache_salt="tenant-a")
        assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0

    run(body)


def test_an_adapter_has_a_cache_of_its_own():
    async def body(_, client):
        await ask(client)
        assert (await ask(client, model="french"))["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert (await ask(client, model="french"))["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        await ask(client, model="german", status=404)
        async with client.get("/metrics") as response:
            assert 'vllm:lora_requests_info{max_lora="4",running_lora_adapters=""' in await response.text()

    run(body, loras=("french",))


@pytest.mark.parametrize(("prompt", "tokens"), [("river stone", None), (["tree", "stone"], 1), ([5, 6, 7], 3), ([[5, 6], [7]], 2)])
def test_completions_take_every_form_of_prompt(prompt, tokens):
    async def body(_, client):
        answer = await ask(client, "/v1/completions", prompt=prompt)
        assert answer["usage"]["prompt_tokens"] == (tokens or len(encode(prompt)))
        assert len(encode(answer["choices"][0]["text"])) == 4

    run(body)


@pytest.mark.parametrize("data", [b"{", b'{"model": "tiny"}', b'{"model": "tiny", "prompt": ""}', b'{"model": 1, "prompt": "a"}'])
def test_a_bad_body_is_a_400(data):
    async def body(_, client):
        async with client.post("/v1/completions", data=data) as response:
            assert response.status == 400

    run(body)


def test_a_prompt_that_can_never_fit_is_a_400():
    async def body(_, client):
        await ask(client, prompt=list(range(200)), path="/v1/completions", status=400)

    run(body, blocks=8)


async def events_of(response):
    text = await response.text()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_stream_says_what_the_whole_answer_says():
    async def body(_, client):
        whole = await ask(client, max_tokens=9)
        request = {"model": "tiny", "max_tokens": 9, "messages": CHAT, "stream": True, "stream_options": {"include_usage": True}}
        async with client.post("/v1/chat/completions", json=request) as response:
            events = await events_of(response)
        deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(delta["content"] for delta in deltas) == whole["choices"][0]["message"]["content"]
        assert events[-1]["usage"]["completion_tokens"] == 9
        assert events[-2]["choices"][0]["finish_reason"] == "length"

    run(body)


def test_tokens_leave_one_by_one_while_the_engine_works():
    async def body(_, client):
        request = {"model": "tiny", "max_tokens": 5, "prompt": "river", "stream": True}
        loop = asyncio.get_running_loop()
        async with client.post("/v1/completions", json=request) as response:
            times = [loop.time() async for _ in response.content.iter_chunks()]
        assert len(times) >= 5
        assert times[4] - times[0] > 3 * 0.02

    run(body, pace=Pace(time_scale=4.0))


def test_a_client_that_leaves_gives_its_blocks_back():
    async def body(server, client):
        request = {"model": "tiny", "max_tokens": 10_000, "prompt": "river", "stream": True}
        async with client.post("/v1/completions", json=request) as response:
            await response.content.readline()
            assert len(server.engine.running) == 1
        await until(lambda: not server.engine.running)
        assert server.engine.cache.free_blocks == server.options.blocks

    run(body)


def test_metrics_in_vllms_names_and_at_its_size():
    async def body(_, client):
        await ask(client)
        await ask(client)
        async with client.get("/metrics") as response:
            text = await response.text()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        labels = '{engine="0",model_name="tiny"}'
        total = len(encode(render_chat(CHAT)))
        assert float(values[f"vllm:prefix_cache_queries_total{labels}"]) == 2 * total
        assert float(values[f"vllm:prefix_cache_hits_total{labels}"]) == (total - 1) // 16 * 16
        assert float(values[f"vllm:num_requests_waiting{labels}"]) == 0
        assert 'block_size="16"' in text
        assert 'num_gpu_blocks="4096"' in text
        assert 50_000 <= len(text) < 60_000

    run(body, pad_metrics=True)


def test_queue_and_cache_use_show_while_it_works():
    async def body(server, client):
        asks = [
            asyncio.create_task(ask(client, prompt=f"river {number}", path="/v1/completions", max_tokens=50)) for number in range(3)
        ]
        await until(lambda: server.engine.waiting)
        async with client.get("/metrics") as response:
            text = await response.text()
        assert 'num_requests_running{engine="0",model_name="tiny"} 1.0' in text
        assert 'num_requests_waiting{engine="0",model_name="tiny"} 2.0' in text
        assert 'kv_cache_usage_perc{engine="0",model_name="tiny"} 0.0\n' not in text
        await asyncio.gather(*asks)

    run(body, pace=Pace(max_num_seqs=1))


def test_reset_prefix_cache_forgets():
    async def body(_, client):
        await ask(client)
        async with client.post("/reset_prefix_cache") as response:
            assert response.status == 200
        assert (await ask(client))["usage"]["prompt_tokens_details"]["cached_tokens"] == 0

    run(body)


def test_tokenize_gives_the_ids_that_are_used():
    async def body(_, client):
        answer = await ask(client, "/tokenize")
        assert answer["tokens"] == encode(render_chat(CHAT))

    run(body)


def test_faults_by_header_and_by_order():
    async def body(_, client):
        await ask(client, headers={"x-fault-status": "503"}, status=503)
        with pytest.raises(aiohttp.ClientError):
            await ask(client, headers={"x-fault-reset": "start"})
        with pytest.raises(aiohttp.ClientError):
            await ask(client, headers={"x-fault-reset": "middle"}, stream=True)
        async with client.post("/fault", json={"status": 500, "requests": 2}) as response:
            assert response.status == 200
        for status in (500, 500, 200):
            await ask(client, status=status)
        async with client.post("/fault", json={"nonsense": 1}) as response:
            assert response.status == 400

    run(body)


def test_a_slow_fault_delays_the_first_token():
    async def body(_, client):
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await ask(client, headers={"x-fault-delay-ms": "80"})
        assert loop.time() - start_s >= 0.08

    run(body)


def test_a_restart_empties_the_cache_and_resets_who_is_running():
    async def body(server, client):
        await ask(client)
        running = asyncio.create_task(ask(client, prompt="river", path="/v1/completions", max_tokens=20_000))
        await until(lambda: server.engine.running)
        async with client.post("/fault", json={"restart": True}) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await running
        assert server.publisher.sequence == 0
        assert (await ask(client))["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert server.publisher.sequence > 0

    run(body, kv_events=KvEventOptions())


def test_connections_do_not_wait_for_acknowledgements():
    """Nagle's algorithm and delayed acknowledgements together hold small writes back for 40 ms."""

    async def body(server, client):
        async with client.post(
            "/v1/completions", json={"model": "tiny", "prompt": "river", "stream": True, "max_tokens": 500}
        ) as response:
            await response.content.readline()
            (request,) = server._open.values()
            raw = request.transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(body)


def test_the_process_says_where_it_is_and_stops_when_told(tmp_path):
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "epp.testing.model_server", "--kv-events", "--ready-file", str(ready)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        said = json.loads(process.stdout.readline())
        assert said == json.loads(ready.read_text())
        assert said["pid"] == process.pid
        assert all(said[name] for name in ("port", "kv_port", "kv_replay_port"))
        with socket.create_connection((said["host"], said["port"]), timeout=5):
            pass
        process.terminate()
        assert process.wait(10) == 0


def test_the_process_writes_its_tokenizer(tmp_path):
    subprocess.run([sys.executable, "-m", "epp.testing.model_server", "--write-tokenizer", str(tmp_path)], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
