"""What a parser costs beside the bare typed decode it rests on, and finding the model name beside a skipping pass."""

import json

import msgspec

from epp.model.request import RequestHead
from epp.parsers.model_span import find_model_span
from epp.parsers.openai_chat import ChatBody
from epp.parsers.select import Parsers
from tests.bench.frame import Row, cpu_us, show

SIZES = {"2 kB": 2_000, "20 kB": 20_000, "200 kB": 200_000}
TURNS = {"2 kB": 2, "20 kB": 6, "200 kB": 20}
SENTENCE = "The quick brown fox jumps over the lazy dog, and nobody in the yard takes any notice of it. "
TARGETS_US = {"2 kB": 10.0, "20 kB": 20.0, "200 kB": 130.0}


class _ModelOnly(msgspec.Struct):
    model: str = ""


def chat_body(size: int, turns: int) -> bytes:
    """Return a chat completions body of about `size` bytes in so many messages."""
    text = (SENTENCE * (size // len(SENTENCE) + 1))[: size // turns]
    messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn in range(turns)]
    return json.dumps(
        {"model": "meta-llama/Llama-3.1-8B-Instruct", "messages": messages, "stream": True, "max_tokens": 256}
    ).encode()


def measure(quick: bool) -> list[Row]:
    """Return one row per size for the parse, and one for the span."""
    parsers, head = Parsers(), RequestHead(path="/v1/chat/completions")
    bare, skip = msgspec.json.Decoder(ChatBody), msgspec.json.Decoder(_ModelOnly)
    rows = []
    for name, size in SIZES.items():
        body = chat_body(size, TURNS[name])
        number = max(10, 4_000_000 // size) if not quick else 10
        floor = cpu_us(lambda body=body: bare.decode(body), number=number)  # type: ignore[misc]
        value = cpu_us(lambda body=body: parsers.parse(head, body), number=number)  # type: ignore[misc]
        target = None if quick else TARGETS_US[name]
        rows.append(Row(name=f"parse chat, {name}", value=value, floor=floor, floor_name="msgspec decode", target=target))
        floor = cpu_us(lambda body=body: skip.decode(body), number=number)  # type: ignore[misc]
        value = cpu_us(lambda body=body: find_model_span(body), number=number)  # type: ignore[misc]
        rows.append(Row(name=f"find model span, {name}", value=value, floor=floor, floor_name="msgspec skip"))
    return rows


if __name__ == "__main__":
    print(show("parsers", measure(quick=False)))
