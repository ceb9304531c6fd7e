"""What every plugin has to keep, as a suite you can run on yours.

    from epp.testing.contracts import check_plugin

    def test_my_scorer():
        check_plugin(MyScorer(depth_max=10))

The pools it is tried on are those that break plugins: one endpoint, a thousand, holes between slots, nothing known, everything
equal, metrics that never came.
"""

from collections.abc import Iterator
from random import Random

import msgspec
import numpy as np

from epp.model.match import Match
from epp.model.request import InferenceRequest
from epp.scheduling.api import Detector, Filter, Picker, Plugin, Producer, ProfileHandler, Scorer, View
from epp.testing.builders import NOW_S, build_endpoint, build_match, build_request, build_snapshot, build_view

SIZES = (1, 2, 7, 1000)


def check_plugin(plugin: Plugin) -> None:
    """Run the suite that fits the plugin's kind, on top of what holds for all.

    Raises:
        AssertionError: it breaks its contract; the message says how.
    """
    _check_struct(plugin)
    match plugin:
        case Scorer():
            _check_scorer(plugin)
        case Filter():
            _check_filter(plugin)
        case Picker():
            _check_picker(plugin)
        case Detector():
            _check_detector(plugin)
        case ProfileHandler():
            assert plugin.choose(build_request(), ("default",)) == "default", "chooses a profile that does not exist"
        case Producer() | Plugin():
            pass


def views() -> Iterator[tuple[str, InferenceRequest, View]]:
    """Yield pools that break plugins, each with what is odd about it."""
    for size in SIZES:
        rng = np.random.default_rng(size)
        snapshot = build_snapshot(
            size,
            waiting=rng.integers(0, 50, size).tolist(),
            running=rng.integers(0, 256, size).tolist(),
            kv_usage=rng.random(size).tolist(),
            requests=(requests := rng.integers(0, 64, size)).tolist(),
            tokens=(rng.random(size) * 1e6).tolist(),
            backlog=(rng.random(size) * 1e5).tolist(),
            backlog_count=(requests // 2).tolist(),
            decoding=(requests // 2).tolist(),
            utilization_ratio=0.9,
        )
        held = build_match((rng.random(size) * 1000).tolist(), 1000)
        yield f"{size} endpoints", build_request(1000), build_view(snapshot, held)
        yield f"{size} endpoints, nothing known", build_request(1000), build_view(snapshot)
        yield f"{size} idle endpoints", build_request(0), build_view(build_snapshot(size))
    holes = [build_endpoint(0), None, build_endpoint(2), None]
    yield "holes between slots", build_request(9), build_view(build_snapshot(holes), build_match([1, 2, 3, 4], 9))
    silent = build_snapshot(3, scraped_s=[-np.inf] * 3)
    yield "metrics never came", build_request(9), build_view(silent)
    yield "metrics are an hour old", build_request(9), build_view(build_snapshot(3), now_s=NOW_S + 3600)
    whole = build_match([9.0, 9.0, 9.0], 9)
    yield "everybody holds everything", build_request(9), build_view(build_snapshot(3), whole)
    nothing = Match(source="test", tokens=np.zeros(3), total=0)
    yield "a prompt of nothing", build_request(0), build_view(build_snapshot(3), nothing)


def _check_struct(plugin: Plugin) -> None:
    plugin.check()
    cls = type(plugin)
    assert cls.__struct_config__.frozen, "is not frozen: write `class X(Scorer, frozen=True)`"
    assert cls.__doc__, "has no docstring"
    again = msgspec.convert(msgspec.to_builtins(plugin), cls)
    assert again == plugin, "does not survive being written to YAML and read again"
    properties = msgspec.json.schema(cls)["$defs"][cls.__name__]["properties"]
    for name, field in properties.items():
        assert "description" in field, f"parameter {name} has no description"


def _check_scorer(scorer: Scorer) -> None:
    for oddity, request, view in views():
        before = _numbers(view)
        values = scorer.score(request, view)
        assert values.shape == (len(view),), f"{oddity}: {values.shape} values for {len(view)} candidates"
        assert np.isfinite(values).all(), f"{oddity}: a score is no number"
        assert (values >= 0).all(), f"{oddity}: a score is below 0"
        assert (values <= 1 + 1e-9).all(), f"{oddity}: a score is above 1"
        assert np.array_equal(values, scorer.score(request, view)), f"{oddity}: two calls, two answers"
        assert before == _numbers(view), f"{oddity}: writes to the pool"


def _check_filter(plugin: Filter) -> None:
    for oddity, request, view in views():
        before = _numbers(view)
        keep = plugin.keep(request, view)
        assert keep.shape == (len(view),), f"{oddity}: {keep.shape} answers for {len(view)} candidates"
        assert keep.dtype == np.bool_, f"{oddity}: answers with {keep.dtype}, not with truth values"
        assert np.array_equal(keep, plugin.keep(request, view)), f"{oddity}: two calls, two answers"
        assert before == _numbers(view), f"{oddity}: writes to the pool"


def _check_picker(picker: Picker) -> None:
    rng = np.random.default_rng(3)
    for size in SIZES:
        for totals in (np.zeros(size), np.ones(size), rng.random(size), np.full(size, 7.5)):
            picked = picker.pick(totals, Random(size))
            assert 1 <= len(picked) <= size, f"picks {len(picked)} of {size}"
            assert len(set(picked.tolist())) == len(picked), "picks an endpoint twice"
            assert ((picked >= 0) & (picked < size)).all(), "picks what is not there"
            assert picked.tolist() == picker.pick(totals, Random(size)).tolist(), "draws from a source of chance of its own"


def _check_detector(detector: Detector) -> None:
    for oddity, _, view in views():
        before = _numbers(view)
        saturation = detector.saturation(view)
        assert np.isfinite(saturation), f"{oddity}: {saturation} is no number"
        assert saturation >= 0, f"{oddity}: {saturation} is below 0"
        assert saturation == detector.saturation(view), f"{oddity}: two calls, two answers"
        assert before == _numbers(view), f"{oddity}: writes to the pool"


def _numbers(view: View) -> bytes:
    columns = view.snapshot.columns
    return b"".join(getattr(columns, name).tobytes() for name in columns.__slots__)
