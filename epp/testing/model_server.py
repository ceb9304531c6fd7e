"""A model server without a model: real HTTP, a real block cache, real time, made-up words.

It stands where vLLM would: OpenAI completions and chat (JSON and SSE), `/tokenize`, `/metrics`, KV events over ZMQ, usage with
cached tokens. Used by the demo, the benchmarks and the tests, in-process (`ModelServer`) or as a process of its own:

    python -m epp.testing.model_server --port 0 --model tiny

which prints one line of JSON with its ports when it is ready. What it says about caching is true of its own cache; how long things
take follows `epp.testing.engine`; how it can be made to fail, `epp.testing.faults`.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from epp.errors import BadRequest
from epp.testing import metrics_page, openai_api
from epp.testing.block_cache import BlockCache, CacheEvent
from epp.testing.engine import Engine, StepEngine
from epp.testing.engine_loop import EngineLoop
from epp.testing.faults import FaultOrder, Faults
from epp.testing.generation import Generation
from epp.testing.kv_publisher import KvPublisher
from epp.testing.serial_engine import SerialEngine
from epp.testing.server_options import ServerOptions, options_from, parser
from epp.testing.tokenizer import write_tokenizer

BODY_BYTES_MAX = 64 * 1024 * 1024


class ModelServer:
    """One stand-in. `start` binds, `stop` lets go; `port` and `ready` are known in between."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.port = 0
        self.faults = Faults()
        self.publisher = KvPublisher(options.kv_events, options.block_tokens) if options.kv_events is not None else None
        self._models = (options.model, *options.loras)
        self._numbers = count(1)
        self._loop: EngineLoop | None = None
        self._runner: web.AppRunner | None = None
        self._open: dict[Generation, web.Request] = {}

    @property
    def engine(self) -> Engine:
        """What answers the requests."""
        return self._running_loop().engine

    @property
    def ready(self) -> dict[str, object]:
        """What the process prints when it can be used."""
        options, publisher = self.options, self.publisher
        ports = {"kv_port": publisher.port, "kv_replay_port": publisher.replay_port} if publisher else {}
        return {"host": options.host, "port": self.port, **ports, "model": options.model, "pid": os.getpid()}

    async def start(self) -> None:
        """Bind the sockets and begin to serve."""
        if self.publisher is not None:
            self.publisher.start()
        self._loop = EngineLoop(self._new_engine(), self._publish)
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        routes: list[tuple[str, str, Callable[[web.Request], object]]] = [
            ("POST", "/v1/completions", self._completions),
            ("POST", "/v1/chat/completions", self._completions),
            ("GET", "/v1/models", self._list_models),
            ("POST", "/tokenize", self._tokenize),
            ("GET", "/health", self._health),
            ("GET", "/metrics", self._metrics),
            ("POST", "/reset_prefix_cache", self._reset_prefix_cache),
            ("POST", "/fault", self._fault),
        ]
        app.router.add_routes([web.route(method, path, handler) for method, path, handler in routes])  # type: ignore[arg-type]
        app.on_response_prepare.append(self._sign)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.options.host, self.options.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection and both publishers' sockets."""
        if self._loop is not None:
            self._loop.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        if self.publisher is not None:
            await self.publisher.stop()

    async def _sign(self, _: web.Request, response: web.StreamResponse) -> None:
        """Say who answered, so that a client behind a gateway can tell."""
        response.headers["x-served-by"] = f"{self.options.host}:{self.port}"

    def _running_loop(self) -> EngineLoop:
        assert self._loop is not None, "not started"
        return self._loop

    def _new_engine(self) -> Engine:
        cache = BlockCache(blocks=self.options.blocks, block_tokens=self.options.block_tokens)
        if self.options.serial_rate > 0:
            return SerialEngine(cache, rate=self.options.serial_rate, gap_s=self.options.serial_gap_s)
        return StepEngine(cache, self.options.pace)

    def _publish(self, events: list[CacheEvent]) -> None:
        if self.publisher is not None:
            self.publisher.publish(events)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.next(request.headers)
        if fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1e3)
        if fault.reset == "start":
            return _reset(request)
        if fault.status:
            return _error(fault.status, "asked to fail")
        try:
            body = openai_api.read_body(await request.read())
            generation = self._generation(body)
        except BadRequest as error:
            return _error(400, error.message)
        if body.model not in self._models:
            return _error(404, f"The model `{body.model}` does not exist.")
        answer = openai_api.Answer(
            identity=f"cmpl-{os.getpid():x}-{next(self._numbers):x}",
            model=body.model,
            chat=request.path.endswith("/chat/completions"),
            created=int(time.time()),
        )
        self._open[generation] = request
        try:
            if body.stream:
                wants_usage = body.stream_options is not None and body.stream_options.include_usage
                return await self._stream(request, generation, answer, wants_usage, reset=fault.reset == "middle")
            await self._run(generation)
            return web.Response(body=answer.whole(generation), content_type="application/json")
        finally:
            del self._open[generation]
            self._running_loop().abort(generation)

    def _generation(self, body: openai_api.GenerateBody) -> Generation:
        ids = openai_api.token_ids(body)
        capacity = self.options.blocks * self.options.block_tokens
        if not ids:
            raise BadRequest("the prompt is empty")
        if len(ids) + body.token_limit > capacity:
            raise BadRequest(f"{len(ids)} prompt tokens and {body.token_limit} more do not fit into {capacity}")
        lora = body.model if body.model in self.options.loras else ""
        return Generation(token_ids=ids, max_tokens=body.token_limit, lora=lora, salt=body.cache_salt or "")

    async def _run(self, generation: Generation) -> None:
        done = asyncio.get_running_loop().create_future()

        def told(generation: Generation) -> None:
            if generation.finished and not done.done():
                done.set_result(None)

        generation.on_tokens = told
        self._running_loop().submit(generation)
        await done

    async def _stream(
        self, request: web.Request, generation: Generation, answer: openai_api.Answer, wants_usage: bool, *, reset: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        arrived = asyncio.Event()
        generation.on_tokens = lambda _: arrived.set()
        self._running_loop().submit(generation)
        await arrived.wait()
        await response.prepare(request)
        sent = 0
        while True:
            arrived.clear()
            upto = generation.generated
            await response.write(answer.chunks(generation, sent, include_usage=wants_usage))
            sent = upto
            if reset:
                return _reset(request)
            if generation.finished:
                break
            await arrived.wait()
        await response.write_eof()
        return response

    async def _list_models(self, _: web.Request) -> web.Response:
        models = [{"id": name, "object": "model", "owned_by": "epp"} for name in self._models]
        return web.json_response({"object": "list", "data": models})

    async def _tokenize(self, request: web.Request) -> web.Response:
        try:
            ids = openai_api.token_ids(openai_api.read_body(await request.read()))
        except BadRequest as error:
            return _error(400, error.message)
        return web.json_response(
            {"count": len(ids), "max_model_len": self.options.blocks * self.options.block_tokens, "tokens": ids}
        )

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        options = self.options
        text = metrics_page.render(
            self.engine, model=options.model, loras=options.loras, max_loras=options.max_loras, padded=options.pad_metrics
        )
        return web.Response(text=text, content_type="text/plain")

    async def _reset_prefix_cache(self, _: web.Request) -> web.Response:
        cleared = self._running_loop().reset_cache()
        return web.json_response({"cleared": cleared}, status=200 if cleared else 409)

    async def _fault(self, request: web.Request) -> web.Response:
        try:
            order = msgspec.json.decode(await request.read(), type=FaultOrder)
        except msgspec.MsgspecError as error:
            return _error(400, str(error))
        self.faults.order(order)
        if self.publisher is not None:
            self.publisher.drop_batches = order.drop_event_batches
            self.publisher.swap_batches = order.swap_event_batches
        if order.restart:
            await self._restart()
        return web.json_response({})

    async def _restart(self) -> None:
        """Be a new process behind the same ports: empty cache, new keys, event numbers from 0, running requests reset."""
        self._running_loop().stop()
        for request in self._open.values():
            if request.transport is not None:
                request.transport.abort()
        if self.publisher is not None:
            await self.publisher.restart()
        self._loop = EngineLoop(self._new_engine(), self._publish)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "error", "code": status}}, status=status)


def _reset(request: web.Request) -> web.Response:
    """End the connection with a TCP reset, as a process that is killed does."""
    transport = request.transport
    if transport is not None:
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        transport.abort()
    return web.Response(status=500)


async def serve(options: ServerOptions, ready_file: Path | None) -> None:
    """Run one stand-in until SIGINT or SIGTERM."""
    server = ModelServer(options)
    await server.start()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    line = json.dumps(server.ready)
    if ready_file is not None:
        ready_file.write_text(line + "\n")  # noqa: ASYNC240 - before anybody is served
    print(line, flush=True)
    await stopped.wait()
    with contextlib.suppress(asyncio.CancelledError):
        await server.stop()


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parsed = parser().parse_args(arguments)
    if parsed.write_tokenizer is not None:
        write_tokenizer(parsed.write_tokenizer)
        return
    uvloop.run(serve(options_from(parsed), parsed.ready_file))


if __name__ == "__main__":
    main(sys.argv[1:])
