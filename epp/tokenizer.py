"""Prompts to token ids, off the event loop: what the director asks when a strategy needs ids that a request does not carry.

A few threads, a bounded queue in front of them, a time after which the request goes on without, and a length that cannot be done in
that time: tokens are an advantage, never a condition.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import tokenizers

from epp.errors import ConfigError, TokenizeError
from epp.model.request import InferenceRequest
from epp.prefix.tokens import ChatTemplate, PromptTokenizer
from epp.scheduling.settings import TokenProducer

WORKERS: Final = 2
QUEUE_MAX: Final = 64
"""Prompts that wait or are worked on; further ones go on without tokens at once."""
TIMEOUT_S: Final = 0.2
"""Enough for some 100 000 tokens."""
BYTES_PER_S: Final = 2_000_000
"""What a thread can be trusted to tokenize; measured: 3.5 MB. A prompt that would take longer than the timeout is not begun: a
thread cannot be stopped, and it would work for seconds, in a hundred times the prompt's memory, for ids that come too late."""

Tokens = tuple[int, ...] | None


@dataclass(slots=True)
class TokenizerCounts:
    """What became of the prompts, since the start."""

    encoded: int = 0
    tokens: int = 0
    refused: int = 0
    """The queue was full."""
    too_long: int = 0
    """More than can be done in the time."""
    late: int = 0
    failed: int = 0
    """No template for it, a template or tokenizer that failed, or a template that made much of little."""

    @property
    def without(self) -> Mapping[str, int]:
        """Those that went on without ids, by reason."""
        return {"queue-full": self.refused, "too-long": self.too_long, "late": self.late, "failed": self.failed}


class Tokenizer:
    """Tokenizes for one event loop.

    Args:
        tokenizer: what the engines do to a prompt.
        workers: threads.
        queue_max: prompts that may wait or be worked on.
        timeout_s: longest time for one.
    """

    def __init__(
        self, tokenizer: PromptTokenizer, *, workers: int = WORKERS, queue_max: int = QUEUE_MAX, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.counts = TokenizerCounts()
        self._tokenizer = tokenizer
        self._queue_max = queue_max
        self._timeout_s = timeout_s
        self._bytes_max = int(timeout_s * BYTES_PER_S)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")
        self._pending = 0

    @classmethod
    def load(cls, settings: TokenProducer) -> Self:
        """Return the tokenizer that a configuration names.

        Raises:
            ConfigError: there is none, or something in it cannot be read.
        """
        template = Path(settings.chat_template) if settings.chat_template else None
        return cls(load_tokenizer(Path(settings.tokenizer), template), timeout_s=settings.timeout_ms / 1000)

    def encode(self, request: InferenceRequest, done: Callable[[Tokens], None]) -> Callable[[], None]:
        """Call `done` later, on the event loop, with the ids, or with None when they could not be had in time.

        Returns:
            A function that gives up the wait: `done` is not called any more.
        """
        loop = asyncio.get_running_loop()
        if len(request.prompt) > self._bytes_max:
            self.counts.too_long += 1
            return loop.call_soon(done, None).cancel
        if self._pending >= self._queue_max:
            self.counts.refused += 1
            return loop.call_soon(done, None).cancel
        self._pending += 1
        wait = _Wait(self.counts, request, done)
        wait.timer = loop.call_later(self._timeout_s, wait.late)
        future = self._threads.submit(wait.work, self._tokenizer, self._bytes_max)
        future.add_done_callback(lambda future: loop.call_soon_threadsafe(self._finish, wait, future))
        return wait.cancel

    def close(self) -> None:
        """Stop the threads; what they have not begun is dropped, what they have is waited for."""
        self._threads.shutdown(cancel_futures=True)

    def retire(self) -> None:
        """Stop the threads once what was asked of them is done; blocks until then. Nothing may be asked any more."""
        self._threads.shutdown()

    def _finish(self, wait: "_Wait", future: Future[Tokens]) -> None:
        """A thread is done with it, or was stopped before it came to it."""
        self._pending -= 1
        if future.cancelled():
            return
        tokens: Tokens = None
        try:
            tokens = future.result()
        except TokenizeError:
            self.counts.failed += 1
        if tokens is not None:
            self.counts.encoded += 1
            self.counts.tokens += len(tokens)
        wait.settle(tokens)


class _Wait:
    """One prompt for the threads. It stays in their queue until one takes it off; given up before that, it is empty by then."""

    __slots__ = ("_counts", "_done", "_request", "timer")

    def __init__(self, counts: TokenizerCounts, request: InferenceRequest, done: Callable[[Tokens], None]) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self._counts = counts
        self._request: InferenceRequest | None = request
        self._done: Callable[[Tokens], None] | None = done

    def work(self, tokenizer: PromptTokenizer, chars_max: int) -> Tokens:
        """Return the ids, or None at once when nobody waits any more; called in a thread."""
        request = self._request
        return None if request is None else tokenizer.encode(request, chars_max)

    def settle(self, tokens: Tokens) -> None:
        """Give the answer, unless that was done before."""
        done = self._done
        self.cancel()
        if done is not None:
            done(tokens)

    def late(self) -> None:
        """The time is over."""
        self._counts.late += 1
        self.settle(None)

    def cancel(self) -> None:
        """Nobody waits any more: let go of the request, whose body may be large."""
        self._done = self._request = None
        if self.timer is not None:
            self.timer.cancel()


def load_tokenizer(path: Path, chat_template: Path | None = None) -> PromptTokenizer:
    """Return the tokenizer of a directory with `tokenizer.json`, `tokenizer_config.json` and perhaps `chat_template.jinja`.

    Args:
        path: the directory, or its `tokenizer.json`.
        chat_template: a file with a chat template in place of the model's own.

    Raises:
        ConfigError: there is no tokenizer, or something in it cannot be read.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        config = _config(file.with_name("tokenizer_config.json"))
        template = _template(chat_template or file.with_name("chat_template.jinja"), config, needed=chat_template is not None)
    except Exception as error:  # the library raises bare exceptions for a file it cannot read
        raise ConfigError(f"no tokenizer in {file}: {error}") from error
    special = {name: text for name, value in config.items() if name.endswith("_token") and (text := _text(value)) is not None}
    return PromptTokenizer(tokenizer, None if template is None else ChatTemplate(template, special, datetime.now))


def _config(file: Path) -> dict[str, Any]:
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Any]) if file.exists() else {}


def _template(file: Path, config: dict[str, Any], *, needed: bool) -> str | None:
    """Return the chat template: a file of its own in newer models, else in the configuration, there possibly one of several."""
    if needed or file.exists():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {one["name"]: one["template"] for one in found}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _text(value: object) -> str | None:
    """Return a special token's text, which may be wrapped in a description."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None
