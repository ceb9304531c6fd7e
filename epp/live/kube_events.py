"""What happens to the configuration, as Kubernetes Events on the ConfigMap: `kubectl events` shows whether it was taken.

Bounded and best effort: a queue of `QUEUE_MAX`, the same only once in `AGAIN_S`, and an API server that does not take one costs a
log line. Without the right to create events nothing else is lost.
"""

import asyncio
import logging
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from epp.errors import ApiError
from epp.live.config_map import ConfigMapSource
from epp.live.controller import Event

QUEUE_MAX = 32
"""Events that wait to be sent; the oldest give way."""
AGAIN_S = 600.0
RECENT_MAX = 64
NOTE_CHARS_MAX = 1024
"""The API server takes no more."""
CONTROLLER = "llm-d.ai/epp"

_log = logging.getLogger(__name__)


class KubeEvents:
    """Sends events.

    Args:
        source: the ConfigMap they are about.
        clock: monotonic seconds.
        instance: which replica we are.
    """

    def __init__(self, source: ConfigMapSource, *, clock: Callable[[], float], instance: str = "") -> None:
        self._source = source
        self._clock = clock
        self._instance = instance or socket.gethostname()
        self._queue: deque[Event] = deque(maxlen=QUEUE_MAX)
        self._some = asyncio.Event()
        self._recent: OrderedDict[Event, float] = OrderedDict()
        self._complaint = ""

    def tell(self, event: Event) -> None:
        """Have an event sent, unless the same was a short while ago."""
        now_s = self._clock()
        if now_s - self._recent.get(event, -AGAIN_S) < AGAIN_S:
            return
        self._recent[event] = now_s
        self._recent.move_to_end(event)
        while len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
        self._queue.append(event)
        self._some.set()

    async def run(self) -> None:
        """Send, until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._queue:
                await self._send(self._queue.popleft())

    async def _send(self, event: Event) -> None:
        if not self._source.uid:
            return  # there is no ConfigMap that it could be about
        path = f"/apis/events.k8s.io/v1/namespaces/{self._source.ref.namespace}/events"
        try:
            await self._source.api.send("POST", path, self._object(event))
        except ApiError as error:
            if error.reason != self._complaint:
                self._complaint = error.reason
                _log.warning("an event could not be sent", extra={"event": event.reason, "error": str(error)})
        else:
            self._complaint = ""

    def _object(self, event: Event) -> Mapping[str, Any]:
        ref = self._source.ref
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{ref.name}-", "namespace": ref.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Configure",
            "reason": event.reason,
            "type": "Warning" if event.warning else "Normal",
            "regarding": {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": ref.name,
                "namespace": ref.namespace,
                "uid": self._source.uid,
            },
            "note": event.note[:NOTE_CHARS_MAX],
        }
