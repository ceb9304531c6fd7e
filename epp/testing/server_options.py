"""What a stand-in is, and its command line."""

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path

from epp.testing.engine import Pace
from epp.testing.kv_publisher import KvEventOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What a stand-in is."""

    host: str = "127.0.0.1"
    port: int = 0
    model: str = "tiny"
    loras: tuple[str, ...] = ()
    max_loras: int = 4
    blocks: int = 4096
    block_tokens: int = 16
    pace: Pace = field(default_factory=Pace)
    serial_rate: float = 0.0
    """Above 0: the serial engine, with this many prompt tokens per second."""
    serial_gap_s: float = 0.01
    pad_metrics: bool = False
    kv_events: KvEventOptions | None = None
    """None: no events."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m epp.testing.model_server`."""
    made = argparse.ArgumentParser(prog="python -m epp.testing.model_server", description="A model server without a model.")
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=0, help="0: a free one")
    made.add_argument("--model", default="tiny")
    made.add_argument("--lora", action="append", default=[], metavar="NAME", help="an adapter it serves; may be repeated")
    made.add_argument("--max-loras", type=int, default=4)
    made.add_argument("--blocks", type=int, default=4096, help="blocks of the cache")
    made.add_argument("--block-tokens", type=int, default=16)
    made.add_argument("--pad-metrics", action="store_true", help="a metrics page as long as a real one")
    made.add_argument("--ready-file", type=Path, help="write the line of ports there too")
    made.add_argument("--write-tokenizer", type=Path, metavar="DIR", help="write tokenizer.json and its chat template, and exit")
    serial = made.add_argument_group("the serial engine")
    serial.add_argument("--serial-rate", type=float, default=0.0, help="prompt tokens per second, one prefill at a time")
    serial.add_argument("--serial-gap-ms", type=float, default=10.0, help="between two tokens of a request")
    steps = made.add_argument_group("the step engine (the default)")
    for pace in fields(Pace):
        flag = "--" + pace.name.replace("_", "-")
        steps.add_argument(flag, type=type(pace.default), default=pace.default)
    events = made.add_argument_group("KV events")
    events.add_argument("--kv-events", action="store_true", help="publish them")
    events.add_argument("--kv-port", type=int, default=0)
    events.add_argument("--kv-replay-port", type=int, default=0)
    events.add_argument("--kv-topic", default="")
    events.add_argument("--kv-arrays", action="store_true", help="the shape before vLLM 0.24")
    events.add_argument("--kv-hash-bytes", action="store_true", help="hashes of 32 bytes instead of integers")
    events.add_argument("--kv-replay-bare", action="store_true", help="replay replies without a topic, as before vLLM 0.26")
    events.add_argument("--kv-ring-batches", type=int, default=10_000)
    events.add_argument("--data-parallel-rank", type=int, default=0)
    return made


def options_from(arguments: argparse.Namespace) -> ServerOptions:
    """Return the options that parsed arguments stand for."""
    events = KvEventOptions(
        endpoint=f"tcp://{arguments.host}:{arguments.kv_port}",
        replay_endpoint=f"tcp://{arguments.host}:{arguments.kv_replay_port}",
        topic=arguments.kv_topic,
        maps=not arguments.kv_arrays,
        hash_bytes=arguments.kv_hash_bytes,
        replay_topic=not arguments.kv_replay_bare,
        rank=arguments.data_parallel_rank,
        ring_batches=arguments.kv_ring_batches,
    )
    return ServerOptions(
        host=arguments.host,
        port=arguments.port,
        model=arguments.model,
        loras=tuple(arguments.lora),
        max_loras=arguments.max_loras,
        blocks=arguments.blocks,
        block_tokens=arguments.block_tokens,
        pace=Pace(**{pace.name: getattr(arguments, pace.name) for pace in fields(Pace)}),
        serial_rate=arguments.serial_rate,
        serial_gap_s=arguments.serial_gap_ms / 1e3,
        pad_metrics=arguments.pad_metrics,
        kv_events=events if arguments.kv_events else None,
    )
