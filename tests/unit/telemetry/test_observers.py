import asyncio
import time

from epp.errors import BadRequest
from epp.telemetry import loop_lag
from epp.telemetry.logs import DecisionLog
from epp.telemetry.metrics import Metrics
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import DecisionRing
from tests.unit.telemetry.facts import build_decision, build_outcome, build_rejected


class Recorder:
    def __init__(self, calls: list, name: str) -> None:
        self._calls, self._name = calls, name

    def decided(self, decision, *, duration_s, body_bytes):
        self._calls.append((self._name, "decided", duration_s, body_bytes))

    def rejected(self, head, error):
        self._calls.append((self._name, "rejected", error.status))

    def finished(self, decision, outcome, *, ttft_s, duration_s):
        self._calls.append((self._name, "finished", ttft_s, duration_s))


def test_everybody_is_told_everything_in_order():
    calls: list = []
    observers = Observers([Recorder(calls, "a"), Recorder(calls, "b")])
    decision = build_decision()
    observers.decided(decision, duration_s=1.0, body_bytes=2)
    observers.rejected(build_rejected(), BadRequest("x"))
    observers.finished(decision, build_outcome(), ttft_s=3.0, duration_s=4.0)
    told = [("decided", 1.0, 2), ("rejected", 400), ("finished", 3.0, 4.0)]
    assert calls == [(name, *what) for what in told for name in "ab"]


def test_the_real_ones_fit_together():
    ring = DecisionRing(lambda: 0.0)
    observers = Observers([Metrics(lambda: 0.0), ring, DecisionLog()])
    decision = build_decision()
    observers.decided(decision, duration_s=0.1, body_bytes=2)
    observers.finished(decision, build_outcome(), ttft_s=None, duration_s=4.0)
    assert ring.get("r-1").total_s == 4.0


def test_loop_lag_sees_a_blocked_loop():
    async def main() -> float:
        lags: asyncio.Queue[float] = asyncio.Queue()
        watching = asyncio.create_task(loop_lag.watch(lags.put_nowait, interval_s=0.01))
        async with asyncio.timeout(10):
            await lags.get()
            time.sleep(0.1)  # noqa: ASYNC251 - the point
            late = await lags.get()
        watching.cancel()
        return late

    assert asyncio.run(main()) > 0.05


def test_observers_come_and_go():
    calls: list = []
    first, second = Recorder(calls, "a"), Recorder(calls, "b")
    observers = Observers([first])
    observers.add(second)
    observers.rejected(build_rejected(), BadRequest("x"))
    observers.remove(first)
    observers.rejected(build_rejected(), BadRequest("x"))
    assert [name for name, *_ in calls] == ["a", "b", "b"]


def test_one_that_fails_costs_the_others_nothing(caplog):
    class Broken:
        def __getattr__(self, name):
            def fail(*_, **__):
                raise ZeroDivisionError

            return fail

    calls: list = []
    decision = build_decision()
    observers = Observers([Broken(), Recorder(calls, "a")])
    observers.decided(decision, duration_s=0.1, body_bytes=5)
    observers.rejected(build_rejected(), BadRequest("no"))
    observers.finished(decision, build_outcome(), ttft_s=None, duration_s=1.0)
    assert [call[1] for call in calls] == ["decided", "rejected", "finished"]
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError] * 3
