"""Which entry of a ConfigMap is meant, and events about it. Against a real API server: `tests/kube/test_live_config.py`."""

import asyncio
from collections import deque
from random import Random

import pytest

from epp.errors import ApiError, ConfigError
from epp.live.config_map import ConfigMap, ConfigMapRef, ConfigMapSource, Metadata
from epp.live.controller import Event
from epp.live.kube_events import AGAIN_S, NOTE_CHARS_MAX, QUEUE_MAX, KubeEvents


def config_map(**data: str) -> ConfigMap:
    return ConfigMap(metadata=Metadata(name="epp", uid="u-1"), data=data)


def ref(key: str = "") -> ConfigMapRef:
    return ConfigMapRef(namespace="serving", name="epp", key=key)


def test_the_entry_that_is_named_or_the_only_one():
    assert ref().text(config_map(anything="a: 1")) == "a: 1"
    assert ref("x").text(config_map(x="a: 1", y="b: 1")) == "a: 1"
    assert ref().collection == "/api/v1/namespaces/serving/configmaps"


@pytest.mark.parametrize(
    ("key", "found", "message"),
    [
        ("", None, "ConfigMap serving/epp does not exist"),
        ("x", config_map(y="", z=""), "ConfigMap serving/epp has no entry 'x'; there are: y, z"),
        ("x", config_map(), "ConfigMap serving/epp has no entry 'x'; there are: none"),
        ("", config_map(y="", z=""), "ConfigMap serving/epp has 2 entries; name one, as --config-map epp/<entry>"),
        ("", config_map(), "ConfigMap serving/epp has 0 entries; name one, as --config-map epp/<entry>"),
    ],
)
def test_what_is_not_there_is_said(key, found, message):
    with pytest.raises(ConfigError) as caught:
        ref(key).text(found)
    assert str(caught.value) == message


class Server:
    """Takes what is sent, or refuses it."""

    def __init__(self) -> None:
        self.sent: deque = deque()
        self.refusal: ApiError | None = None

    async def send(self, method, path, body):
        if self.refusal is not None:
            raise self.refusal
        self.sent.append((method, path, body))


class Desk:
    """Events about a ConfigMap."""

    def __init__(self, uid: str = "u-1") -> None:
        self.now_s = 0.0
        self.source = ConfigMapSource(ref(), clock=lambda: self.now_s, random=Random())
        self.source.api = self.server = Server()
        self.source.uid = uid
        self.events = KubeEvents(self.source, clock=lambda: self.now_s, instance="epp-0")

    def tell(self, *notes: str, warning: bool = False) -> None:
        for note in notes:
            self.events.tell(Event(reason="ConfigRefused", note=note, warning=warning))
        asyncio.run(self._send())

    async def _send(self) -> None:
        task = asyncio.create_task(self.events.run())
        for _ in range(2 * QUEUE_MAX):
            await asyncio.sleep(0)
        assert not self.events._queue
        task.cancel()

    @property
    def notes(self) -> list[str]:
        return [body["note"] for _, _, body in self.server.sent]


def test_an_event_is_about_the_config_map():
    desk = Desk()
    desk.tell("strategy.chian: unknown field", warning=True)
    ((method, path, body),) = desk.server.sent
    assert (method, path) == ("POST", "/apis/events.k8s.io/v1/namespaces/serving/events")
    assert body["regarding"] == {"apiVersion": "v1", "kind": "ConfigMap", "name": "epp", "namespace": "serving", "uid": "u-1"}
    assert (body["type"], body["reason"], body["reportingInstance"]) == ("Warning", "ConfigRefused", "epp-0")


def test_the_same_is_told_once_in_a_while():
    desk = Desk()
    desk.tell("a", "a", "b", "a")
    assert desk.notes == ["a", "b"]
    desk.now_s = AGAIN_S
    desk.tell("a")
    assert desk.notes == ["a", "b", "a"]


def test_it_is_bounded():
    desk = Desk()
    desk.tell(*map(str, range(3 * QUEUE_MAX)))
    assert len(desk.notes) == QUEUE_MAX
    assert len(desk.events._recent) <= 2 * QUEUE_MAX
    desk.tell("x" * 5000)
    assert len(desk.notes[-1]) == NOTE_CHARS_MAX


def test_without_a_config_map_there_is_nothing_it_could_be_about():
    desk = Desk(uid="")
    desk.tell("a")
    assert desk.notes == []


def test_a_right_that_is_missing_costs_a_line(caplog):
    desk = Desk()
    desk.server.refusal = ApiError(403, "Forbidden", "no")
    desk.tell("a", "b")
    assert [record.message for record in caplog.records] == ["an event could not be sent"]
    desk.server.refusal = None
    desk.tell("c")
    assert desk.notes == ["c"]
