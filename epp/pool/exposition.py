r"""Reads a few series off a page of Prometheus text, without parsing the page.

A model server's page has some fifty kilobytes, of which we want six lines. A `Family` finds the lines of one metric by a plain
search for its name at the start of a line (a newline inside a label value is written `\n`, so every line start is a real one),
remembers where they were, and parses them again only when their bytes have changed.

Called by `pool.engines` for every page the poller gets. What it protects from: the cost of a full parse (some 10 ms for such a
page, 25 us here), and pages that are not what they claim to be: whatever the bytes, the worst answer is "no such series", in linear
time.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details. As there, all lines of one gauge
or counter form a single group; the parts of histograms and summaries are not read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from epp.errors import ConfigError

SERIES_MAX = 1024
"""Lines of one metric that are looked at; the rest of the group is ignored."""
LINE_BYTES_MAX = 65_536
"""Longer lines are ignored; a list of 256 LoRA adapters has some 10 kB."""

_LABELS = rb'\{(?:[^"}]|"(?:[^"\\]|\\.)*+")*+\}'
_SERIES = re.compile(rb"[ \t]*(" + _LABELS + rb")?[ \t]*([^ \t\r]+)(?:[ \t]+(-?[0-9]+))?[ \t\r]*(?:#.*)?")
_LABEL = re.compile(rb'[{,][ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\]|\\.)*+)"')
_ESCAPE = re.compile(r"\\(.)")
_SPEC = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?")
_SPEC_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*("(?:[^"\\]|\\.)*"|[^",\s][^",]*)\s*(?:,|$)')


@dataclass(frozen=True)
class Series:
    """One line: its labels, value and timestamp."""

    raw_labels: bytes
    value: float
    timestamp_ms: int | None

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The labels by name, unescaped."""
        return {name.decode(): _unescape(value.decode(errors="replace")) for name, value in _LABEL.findall(self.raw_labels)}


@dataclass(frozen=True, slots=True)
class Spec:
    """Which series of a page is meant: a metric name, and labels it must have."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


def parse_spec(text: str, path: str = "") -> Spec:
    """Return what `name` or `name{label=value,...}` means; values quoted or not.

    Raises:
        ConfigError: it means nothing; carries `path`.
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no metric: wanted `name` or `name{{label=value,...}}`", path)
    rest, labels = match[2] or "", []
    while rest.strip():
        label = _SPEC_LABEL.match(rest)
        if label is None:
            raise ConfigError(f"{text!r} has labels that are not `label=value,...`", path)
        value = label[2].strip()
        labels.append((label[1], _unescape(value[1:-1]) if value.startswith('"') else value))
        rest = rest[label.end() :]
    return Spec(match[1], tuple(labels))


class Family:
    """The series of one metric on the pages of one endpoint, the first `SERIES_MAX` of them.

    Cost: a compare of the lines while they stay where and what they were; a search of the page (0.2 us a kB) when they have moved.
    """

    __slots__ = ("_at", "_lines", "_name", "_run", "_series")

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._run = re.compile(b"(?:" + re.escape(self._name) + rb"[{ \t].*\n?)++")
        """Lines of the metric one after the other."""
        self._at = 0
        self._lines = b""
        self._series: tuple[Series, ...] = ()

    def read(self, page: bytes) -> Sequence[Series]:
        """Return the metric's series in the order of the page; the same object as before when the lines are the same."""
        start = self._find(page)
        run = None if start is None else self._run.match(page, start)
        lines = b"" if run is None else run[0]
        if lines != self._lines:
            self._lines = lines
            self._series = self._parse(lines.split(b"\n"))
        return self._series

    def _parse(self, lines: Sequence[bytes]) -> tuple[Series, ...]:
        found = (_series(line[len(self._name) :]) for line in lines[:SERIES_MAX])
        return tuple(series for series in found if series is not None)

    def _find(self, page: bytes) -> int | None:
        """Return where the first line of the metric starts."""
        if self._starts_at(page, self._at):
            return self._first_from(page, self._at)
        if self._starts_at(page, 0):
            return 0
        needle = b"\n" + self._name
        at = page.find(needle)
        while at >= 0:
            if self._starts_at(page, at + 1):
                self._at = at + 1
                return self._at
            at = page.find(needle, at + 1)
        return None

    def _first_from(self, page: bytes, at: int) -> int:
        """Return where the group begins of which a line starts here: where the first line was, there may now be a later one."""
        while at and self._starts_at(page, before := page.rfind(b"\n", 0, at - 1) + 1):
            at = before
        self._at = at
        return at

    def _starts_at(self, page: bytes, at: int) -> bool:
        """Whether a line of exactly this metric starts here."""
        end = at + len(self._name)
        return page.startswith(self._name, at) and page[end : end + 1] in (b"{", b" ", b"\t") and (at == 0 or page[at - 1] == 10)


class Highest(Family):
    """Of the series of one metric the one with the highest value, of however many.

    vLLM adds a series for every set of LoRA adapters that ever ran together, in every order, and never takes one away: thousands,
    of which the latest by value counts, wherever it stands. Cost: 0.7 us a line when one has changed, and one parse.

    Args:
        spec: the metric, and labels that the series must have.
    """

    __slots__ = ("_labels",)

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec.name)
        self._labels = spec.labels

    def _parse(self, lines: Sequence[bytes]) -> tuple[Series, ...]:
        for line in sorted(lines, key=self._rank, reverse=True)[:SERIES_MAX]:
            series = super()._parse((line,))
            if with_labels(series, self._labels):
                return series
        return ()

    def _rank(self, line: bytes) -> float:
        """Return the value of a line without parsing its labels; what has none that is finite comes last."""
        labels_end = line.rfind(b"}") + 1 or len(self._name)
        try:
            value = float(line[labels_end:].split(None, 1)[0])
        except (ValueError, IndexError):
            return -math.inf
        return value if math.isfinite(value) else -math.inf


def with_labels(series: Sequence[Series], labels: Sequence[tuple[str, str]]) -> Sequence[Series]:
    """Return the series that have these labels."""
    return [one for one in series if all(one.labels.get(name) == wanted for name, wanted in labels)] if labels else series


def values(series: Sequence[Series], parts: Sequence[str]) -> list[float]:
    """Return a value for each part of a server that reports for itself; what is not a finite number is passed over.

    Args:
        series: of one metric.
        parts: the labels that tell the parts from each other. Of several series of one part the newest by timestamp counts, the
            first when none has one: ranks that work on the same requests report the same.
    """
    found: dict[tuple[str | None, ...], Series] = {}
    for one in series:
        if math.isfinite(one.value):
            part = tuple(map(one.labels.get, parts)) if len(series) > 1 else ()
            old = found.setdefault(part, one)
            if (one.timestamp_ms or 0) > (old.timestamp_ms or 0):
                found[part] = one
    return [one.value for one in found.values()]


def _series(line: bytes) -> Series | None:
    """Return what the rest of a line after the name says; None when it is not a sample."""
    match = _SERIES.fullmatch(line) if len(line) <= LINE_BYTES_MAX else None
    if match is None:
        return None
    try:
        return Series(match[1] or b"", float(match[2]), int(match[3]) if match[3] else None)
    except ValueError:
        return None


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: {"n": "\n"}.get(match[1], match[1]), text) if "\\" in text else text
