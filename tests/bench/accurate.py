"""The accurate strategy: what an event costs, what a match costs, and what a block weighs.

`measure` is called by the runner of the benches; `python -m tests.bench.accurate` prints its rows alone.
"""

import gc
import tracemalloc
from array import array
from random import Random

import msgspec
import numpy as np
from xxhash import xxh3_64_intdigest

from epp.model.endpoint import Endpoint
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.prefix.accurate import BYTES_PER_BLOCK, BYTES_PER_SHARE, Accurate
from epp.prefix.kv_events import decode_batch
from epp.prefix.token_keys import chain
from tests.bench.frame import Row, cpu_us, show

BLOCK = 16
encode = msgspec.msgpack.encode


class Pool:
    """As much of a snapshot as a match looks at."""

    def __init__(self, width: int) -> None:
        self.columns = type("Columns", (), {"live": np.ones(width, np.bool_)})
        self.slots = np.arange(width)
        self.adapters: dict[str, tuple[int, int]] = {}
        self.version = 1


def stored(random: Random, blocks: int, parent: int | None = None) -> dict[str, object]:
    """Return an event as vLLM 0.24 and later send it."""
    return {
        "type": "BlockStored",
        "block_hashes": [random.getrandbits(64) for _ in range(blocks)],
        "parent_block_hash": parent,
        "token_ids": [random.randrange(128_000) for _ in range(blocks * BLOCK)],
        "block_size": BLOCK,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * blocks,
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }


def removed(event: dict[str, object]) -> list[dict[str, object]]:
    """Return the evictions of an event's blocks, one each, as vLLM sends them."""
    hashes = event["block_hashes"]
    assert isinstance(hashes, list)
    return [{"type": "BlockRemoved", "block_hashes": [one], "medium": "GPU", "group_idx": 0} for one in reversed(hashes)]


def batch(*events: dict[str, object]) -> bytes:
    """Return a message's payload."""
    return encode([1.0, list(events), 0])


def attached(endpoints: int) -> Accurate:
    """Return a strategy with so many endpoints."""
    strategy = Accurate(speculative=False)
    for slot in range(endpoints):
        strategy.feed.attach(
            slot, Endpoint(name=f"x/{slot}", address=f"10.0.{slot // 256}.{slot % 256}", port=80), replayable=False
        )
    return strategy


def decoding(number: int) -> list[Row]:
    """What a message costs before anybody acts on it; the floor is msgpack into plain lists and dicts."""
    rows = []
    for blocks, target in ((1, 4.0), (16, 0.9), (512, 0.8)):
        payload = batch(stored(Random(1), blocks))
        calls = max(3, number // blocks)
        rows.append(
            Row(
                name=f"decode, {blocks} blocks a message, per block",
                value=cpu_us(lambda payload=payload: decode_batch(payload), number=calls) / blocks,
                floor=cpu_us(lambda payload=payload: msgspec.msgpack.decode(payload), number=calls) / blocks,
                floor_name="msgpack alone",
                target=target,
            )
        )
    return rows


def applying(number: int) -> list[Row]:
    """What a block costs from the bytes to the index and out again; the floor is its hash and one place in two dicts."""
    random = Random(2)
    events = [stored(random, 16) for _ in range(max(4, number // 16))]
    messages = [batch(event) for event in events]
    evictions = [batch(*removed(event)) for event in events]
    tokens = array("I", [random.randrange(128_000) for _ in range(BLOCK * 16)]).tobytes()
    strategy, seq = attached(1), iter(range(1 << 40))

    def store() -> None:
        for payload in messages:
            strategy.feed.receive_live(0, next(seq), payload, 1.0)

    def evict() -> None:
        for payload in evictions:
            strategy.feed.receive_live(0, next(seq), payload, 1.0)

    def floor() -> None:
        keys = chain(tokens, BLOCK, 0)
        for one in ({}, {}):
            for key in keys:
                one[key] = 1

    blocks = len(messages) * 16
    store_us = cpu_us(store, number=1, rounds=1) / blocks
    evict_us = cpu_us(evict, number=1, rounds=1) / blocks
    for _ in range(2):
        store_us = min(store_us, cpu_us(store, number=1, rounds=1) / blocks)
        evict_us = min(evict_us, cpu_us(evict, number=1, rounds=1) / blocks)
    assert strategy.size().entries == 0
    floor_us = cpu_us(floor, number=100) / 16
    return [
        Row(
            name="message to index, 16 blocks a message, per block",
            value=store_us,
            floor=floor_us,
            floor_name="hash, 2 dicts",
            target=2.5,
        ),
        Row(name="eviction to index, per block", value=evict_us, target=3.0),
    ]


def matching(number: int) -> list[Row]:
    """What a request costs: keys from token ids, and who holds them, at 8 and 256 endpoints of different depth."""
    random = Random(3)
    rows = []
    for tokens in (2_000, 50_000):
        event = stored(random, tokens // BLOCK)
        ids = (*event["token_ids"], 0)
        request = InferenceRequest(head=RequestHead(), api=Api.COMPLETIONS, token_ids=ids)
        calls = max(3, number // (tokens // BLOCK))
        raw = array("I", ids).tobytes()
        hashes = cpu_us(lambda raw=raw: [xxh3_64_intdigest(raw[i : i + 64]) for i in range(0, len(raw) - 63, 64)], number=calls)
        for endpoints in (8, 256):
            strategy, pool = attached(endpoints), Pool(endpoints)
            for slot in range(endpoints):
                blocks = max(1, (slot + 1) * (tokens // BLOCK) // endpoints)
                part = event | {
                    "block_hashes": event["block_hashes"][:blocks],
                    "token_ids": ids[: blocks * BLOCK],
                    "extra_keys": None,
                }
                strategy.feed.receive_live(slot, 0, batch(part), 1.0)
            keys = strategy.prepare(request)
            masks = strategy._lanes.masks
            rows += [
                Row(
                    name=f"keys of a prompt of {tokens} tokens",
                    value=cpu_us(lambda s=strategy, r=request: s.prepare(r), number=calls),
                    floor=hashes,
                    floor_name="xxh3 of each block",
                    ratio_target=3.0,
                )
            ] * (endpoints == 8) + [
                Row(
                    name=f"match of {tokens} tokens, {endpoints} endpoints, each another depth",
                    value=cpu_us(lambda s=strategy, k=keys, r=request, p=pool: s.match(k, r, p, p.slots), number=calls),
                    floor=cpu_us(lambda k=keys.by_size[BLOCK], m=masks[0]: look_up(k, m), number=calls),
                    floor_name="look-up and AND of each block",
                    target=15.0 + 0.12 * tokens / BLOCK if endpoints == 8 else None,
                )
            ]
    return rows


def look_up(keys: list[int], masks: dict[int, int]) -> int:
    """Do the least that a match must do."""
    alive = -1
    get = masks.get
    for key in keys:
        alive &= get(key, 0)
    return alive


def weighing(blocks: int) -> list[Row]:
    """What a block weighs, and what stays when it has gone."""
    random = Random(4)
    events = [stored(random, 64) for _ in range(blocks // 64)]
    rows = []
    for endpoints in (1, 8):
        strategy, messages = attached(endpoints), [batch(event) for event in events]
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for slot in range(endpoints):
            for seq, payload in enumerate(messages):
                strategy.feed.receive_live(slot, seq, payload, 1.0)
        gc.collect()
        weight = (tracemalloc.get_traced_memory()[0] - before) / len(events) / 64
        tracemalloc.stop()
        stated = BYTES_PER_BLOCK + (endpoints - 1) * BYTES_PER_SHARE
        rows.append(Row(name=f"bytes of a block that {endpoints} endpoints hold", value=weight, unit="B", target=stated))
    return rows


def churning(blocks: int) -> list[Row]:
    """What is left after so many blocks have come and gone, a thousand at a time."""
    random = Random(5)
    strategy = attached(1)
    event = stored(random, 1000)

    def turn(number: int) -> None:
        event["block_hashes"] = [random.getrandbits(64) for _ in range(1000)]
        event["token_ids"] = array("I", random.randbytes(4 * 1000 * BLOCK)).tolist()
        strategy.feed.receive_live(0, 2 * number, batch(event), 1.0)
        strategy.feed.receive_live(0, 2 * number + 1, batch(*removed(event)), 1.0)

    turn(0)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1, blocks // 1000 + 1):
        turn(number)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert strategy.size().entries == 0
    return [Row(name=f"bytes left after {blocks} blocks came and went", value=left, unit="B", target=1_000_000)]


def measure(quick: bool) -> list[Row]:
    """Return the rows; `quick` is for the test suite and measures nothing well."""
    number = 64 if quick else 5_000
    rows = decoding(number) + applying(64 if quick else 20_000) + matching(number if quick else 50_000)
    return rows + weighing(6_400 if quick else 64_000) + churning(5_000 if quick else 300_000)


if __name__ == "__main__":
    print(show("accurate", measure(quick=False)))
