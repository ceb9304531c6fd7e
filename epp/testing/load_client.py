"""Sends a workload open-loop and measures what a user would: first token, gaps between tokens, end; and what the server counted.

Open-loop: a request is sent when it is due, whatever became of those before it; only a later turn of a conversation waits for
the answer it builds on. Answers are read as server-sent events.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from epp.testing.workload import Conversation, Turn

REQUEST_TIMEOUT_S = 120.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of one request. Times in seconds; `error` is empty when it went well."""

    kind: str
    messages: tuple[dict[str, str], ...]
    sent_s: float = 0.0
    """Since the workload began."""
    late_s: float = 0.0
    """Sent so much after it was due."""
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    answer: str = ""
    served_by: str = ""
    """`host:port` of the stand-in, as it says itself."""
    error: str = ""


class _Choice(msgspec.Struct, frozen=True):
    delta: dict[str, Any] = msgspec.field(default_factory=dict)


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice]
    usage: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Event)


class LoadClient:
    """Sends requests to one address.

    Args:
        base: such as `http://127.0.0.1:8080`.
        model: what the requests ask for.
        told: called with every result as it comes.
        headers: added to every request.
    """

    def __init__(self, base: str, model: str, told: Callable[[Result], None] = lambda _: None) -> None:
        self._base = base
        self._model = model
        self._told = told
        self._started_s = 0.0

    async def run(self, conversations: Sequence[Conversation]) -> list[Result]:
        """Send everything and return the results, in the order in which they were sent."""
        results: list[Result] = []
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._started_s = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                for one in conversations:
                    tasks.create_task(self._converse(session, one, results))
        return sorted(results, key=lambda result: result.sent_s)

    async def _converse(self, session: aiohttp.ClientSession, conversation: Conversation, results: list[Result]) -> None:
        messages = [{"role": "system", "content": conversation.system}] if conversation.system else []
        for turn in conversation.turns:
            messages.append({"role": "user", "content": turn.text})
            await asyncio.sleep(max(0.0, self._started_s + turn.at_s - time.monotonic()))
            result = Result(kind=conversation.kind, messages=tuple(messages))
            result.sent_s = time.monotonic() - self._started_s
            result.late_s = result.sent_s - turn.at_s
            await self._send(session, result, turn)
            results.append(result)
            self._told(result)
            if result.error:
                return
            messages.append({"role": "assistant", "content": result.answer})

    async def _send(self, session: aiohttp.ClientSession, result: Result, turn: Turn) -> None:
        body = msgspec.json.encode(
            {
                "model": self._model,
                "max_tokens": turn.max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
                "messages": result.messages,
            }
        )
        headers = {"content-type": "application/json"}
        started_s = time.monotonic()
        try:
            async with session.post(f"{self._base}/v1/chat/completions", data=body, headers=headers) as response:
                if response.status != 200:
                    result.error = f"status {response.status}"
                    return
                result.served_by = response.headers.get("x-served-by", "")
                await self._read(response, result, started_s)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            result.error = type(error).__name__

    async def _read(self, response: aiohttp.ClientResponse, result: Result, started_s: float) -> None:
        pieces: list[bytes] = []
        last_s = started_s
        async for piece in response.content.iter_any():
            now_s = time.monotonic()
            if pieces:
                result.gaps_s.append(now_s - last_s)
            else:
                result.ttft_s = now_s - started_s
            last_s = now_s
            pieces.append(piece)
        result.e2e_s = last_s - started_s
        _finish(result, b"".join(pieces))


def _finish(result: Result, stream: bytes) -> None:
    """Take the answer and the usage out of a whole stream."""
    text: list[str] = []
    for line in stream.split(b"\n\n"):
        if line.startswith(b"data: {"):
            event = _decoder.decode(line[6:])
            text += [choice.delta.get("content") or "" for choice in event.choices]
            if event.usage is not None:
                result.prompt_tokens = event.usage["prompt_tokens"]
                result.completion_tokens = event.usage["completion_tokens"]
                result.cached_tokens = event.usage["prompt_tokens_details"]["cached_tokens"]
    if not stream.endswith(b"data: [DONE]\n\n"):
        result.error = "the stream was cut"
    result.answer = "".join(text)
