"""The scanner against prometheus_client's parser on generated pages, and against anything at all."""

import math

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from epp.model.endpoint import Endpoint
from epp.pool.engines import Engines, Reader
from epp.pool.exposition import Family, Highest, Spec

ENDPOINT = Endpoint(name="default/a", address="10.0.0.1", port=8000)
NAMES = ["vllm:num_requests_waiting", "vllm:num_requests_waiting_by_reason", "vllm:num", "a", "a_b", "up"]

label_values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12) | st.sampled_from(
    ['"', "\\", "\n", "\\n", 'a="b"} 1', "\nup 3", "}", "{", ",", "# HELP up"]
)
labels = st.dictionaries(st.sampled_from(["a", "le", "engine", "_x1"]), label_values, max_size=3)
values = st.floats() | st.integers(-(2**53), 2**53)
samples = st.tuples(labels, values, st.none() | st.integers(0, 2**42))
blanks = st.sampled_from([" ", "  ", "\t"])


def number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, repr(value))


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@st.composite
def pages(draw: st.DrawFn) -> str:
    lines = []
    for name in draw(st.permutations(NAMES))[: draw(st.integers(0, len(NAMES)))]:
        if draw(st.booleans()):
            lines += [f"# HELP {name} {escape(draw(label_values))}", f"# TYPE {name} gauge"]
        for pairs, value, timestamp in draw(st.lists(samples, max_size=4)):
            inside = ",".join(f'{key}="{escape(text)}"' for key, text in pairs.items())
            braces = "{" + inside + "}" if inside else draw(st.sampled_from(["", "{}"]))
            tail = "" if timestamp is None else f"{draw(blanks)}{timestamp}"
            lines.append(f"{name}{braces}{draw(blanks)}{number(value)}{tail}")
        lines += draw(st.sampled_from([[], [""], ["# a comment"]]))
    return "\n".join(lines) + draw(st.sampled_from(["\n", ""]))


def seen(value: float) -> str:
    return number(float(value))


@given(st.lists(pages(), min_size=1, max_size=3))
def test_the_scanner_sees_what_the_parser_sees(sequence):
    families = {name: Family(name) for name in NAMES}
    highest = {name: Highest(Spec(name)) for name in NAMES}
    for page in sequence:
        parsed = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        for name, family in families.items():
            wanted = [
                (sample.labels, seen(sample.value), None if sample.timestamp is None else round(float(sample.timestamp) * 1000))
                for sample in parsed
                if sample.name == name
            ]
            assert [(dict(one.labels), seen(one.value), one.timestamp_ms) for one in family.read(page.encode())] == wanted
            finite = [sample.value for sample in parsed if sample.name == name and math.isfinite(sample.value)]
            assert not finite or [one.value for one in highest[name].read(page.encode())] == [max(finite)]


@given(st.lists(st.binary(max_size=200) | st.sampled_from(NAMES).map(lambda name: b"\n" + name.encode() + b"{"), max_size=6))
@example([b'vllm:num_requests_waiting{a="'])
@example([b"vllm:cache_config_info{", b"a" * 50_000])
@example([b"vllm:cache_config_info", b'{a="' * 10_000, b"} 1"])
def test_whatever_the_bytes_there_is_an_answer(parts):
    reader = Reader(Engines().of(ENDPOINT))
    sample = reader.read(b"".join(parts))
    assert sample is None or sample.waiting is None or 0 <= sample.waiting < math.inf
