import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser

import aiohttp
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from epp.admin.config_pages import ConfigPages
from epp.admin.gate import Gate
from epp.admin.server import Admin
from epp.errors import ConfigError
from epp.kube.verdicts import Outcome, Verdict
from epp.prefix.approximate import Approximate
from epp.prefix.blocks import Blocks
from epp.prefix.chain import Chain
from epp.telemetry.health import Fact, HealthState
from epp.telemetry.metrics import Metrics
from epp.telemetry.sheets import DecisionRing
from epp.telemetry.state_metrics import ConfigState, Sources
from epp.testing.builders import build_snapshot
from tests.unit.telemetry.facts import build_decision, build_outcome


class History:
    """Two generations, and what was asked for."""

    def __init__(self) -> None:
        self.texts = {1: "a: 1\nb: 1\n", 2: "a: 1\nb: 2\n"}
        self.asked: list[tuple] = []

    def report(self):
        return {"generation": 2, "asked": len(self.asked)}

    def effective(self, number=None):
        if number not in {None, *self.texts}:
            raise ConfigError(f"generation {number} is not kept")
        return self.texts[number or 2]

    async def rollback(self, number):
        if number == 9:
            raise ConfigError("there is no other configuration to go back to", "strategy.chain")
        self.asked.append(("rollback", number))

    async def pin(self):
        self.asked.append(("pin",))

    async def unpin(self):
        self.asked.append(("unpin",))


class World:
    """An admin server over a small pool, and the objects behind it."""

    def __init__(self) -> None:
        self.metrics = Metrics(lambda: 100.0)
        self.ring = DecisionRing(lambda: 0.0)
        self.health = HealthState()
        self.snapshot = build_snapshot(2, waiting=[3, 0], scraped_s=[999.9, -np.inf])
        self.history = History()
        self.sources = Sources(
            snapshot=lambda: self.snapshot,
            clock=lambda: 1000.0,
            strategies=lambda: [Chain([Approximate(Blocks())])],
            config=lambda: ConfigState(hash="abc", generation=2),
            pool_name="pool",
        )

    def decide(self, **changes) -> None:
        decision = build_decision(**changes)
        for observer in (self.metrics, self.ring):
            observer.decided(decision, duration_s=0.0001, body_bytes=10)
            observer.finished(decision, build_outcome(), ttft_s=0.1, duration_s=1.0)

    @asynccontextmanager
    async def served(self, *, gate: Gate | None = None) -> AsyncIterator["Client"]:
        admin = Admin(self.sources, self.metrics, self.ring, self.health, ConfigPages(self.history).routes(), gate=gate)
        port = await admin.start("127.0.0.1", 0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield Client(session)
        await admin.stop()


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Return status, content type and text."""
        async with self.session.get(path, headers=headers) as response:
            return response.status, response.headers["Content-Type"], await response.text()

    async def json(self, path: str):
        """Return status and content, which must be JSON as the standard has it."""
        status, content_type, text = await self.get(path)
        assert content_type.startswith("application/json")

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return status, json.loads(text, parse_constant=refuse)


def with_client(check, world: World | None = None) -> None:
    async def main() -> None:
        async with (world or World()).served() as client:
            await check(client)

    asyncio.run(main())


def test_the_metrics_page_parses_in_both_formats():
    world = World()
    world.decide()

    async def check(client: Client) -> None:
        status, content_type, text = await client.get("/metrics")
        assert status == 200
        assert content_type.startswith("text/plain")
        samples = {s.name for family in prometheus(text) for s in family.samples}
        expected = {"llm_d_epp_request_total", "llm_d_epp_ready_endpoints", "epp_config_info", "process_cpu_seconds_total"}
        assert expected <= samples
        accept = "application/openmetrics-text;version=1.0.0"
        _, content_type, text = await client.get("/metrics", Accept=accept)
        assert content_type.startswith("application/openmetrics-text")
        assert "llm_d_epp_request" in {family.name for family in openmetrics(text)}

    with_client(check, world)


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["abc", "1.0.x", "-", "1." + "0" * 5000], ids=lambda version: version[:8])
def test_metrics_for_whoever_wants_a_version_that_is_none(kind, version):
    async def check(client: Client) -> None:
        status, content_type, text = await client.get("/metrics", Accept=f"{kind};version={version}")
        assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert list(prometheus(text))

    with_client(check)


def test_alive_always_ready_when_synced_and_not_draining():
    world = World()

    async def check(client: Client) -> None:
        for changes, ready in (((), 503), ((Fact.POOL_SYNCED,), 200), ((Fact.DRAINING,), 503)):
            for fact in changes:
                world.health.set(fact, True)
            assert (await client.json("/healthz"))[0] == 200
            assert (await client.json("/readyz"))[0] == ready
        assert (await client.json("/readyz"))[1] == {"status": "NOT_SERVING", "reasons": ["draining"]}

    with_client(check, world)


def test_decisions_newest_first_narrowed_and_in_full():
    world = World()
    for i in range(60):
        world.decide(request_id=f"r{i}", model=("a", "b")[i % 2], chosen=i % 3)

    async def ids(client: Client, query: str) -> list[str]:
        status, content = await client.json(f"/decisions{query}")
        assert status == 200
        assert content["kept"] == 60
        return [one["request_id"] for one in content["decisions"]]

    async def check(client: Client) -> None:
        assert len(await ids(client, "")) == 50
        assert await ids(client, "?limit=2") == ["r59", "r58"]
        assert await ids(client, "?limit=2&model=a") == ["r58", "r56"]
        assert await ids(client, "?limit=1&endpoint=10.0.0.1:8000") == ["r57"]
        assert await ids(client, "?model=nobody") == []
        status, one = await client.json("/decisions/r7")
        assert status == 200
        assert one["endpoint"]["name"] == "default/server-1"
        assert one["outcome"]["cached_tokens"] == 700
        assert "helpful" not in json.dumps(one)

    with_client(check, world)


NO_NUMBERS = ("0", "-1", "x", "1001", "", "%C2%B2", "%D9%A3", "9" * 5000)


@pytest.mark.parametrize("query", [*(f"limit={text}" for text in NO_NUMBERS), "limits=1"], ids=lambda query: query[:20])
def test_a_malformed_query_is_refused_with_a_sentence(query):
    async def check(client: Client) -> None:
        status, content = await client.json(f"/decisions?{query}")
        assert status == 400
        assert "limit" in content["error"]

    with_client(check)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/decisions/x", 404),
        ("POST", "/pool", 405),
        pytest.param("GET", f"/config/{'9' * 5000}", 404, id="a long number"),
        ("GET", "/config/%D9%A3", 404),
        ("GET", "/config/diff?from=%D9%A3", 400),
    ],
)
def test_errors_are_json(method, path, expected):
    async def check(client: Client) -> None:
        async with client.session.request(method, path) as response:
            assert response.status == expected
            assert (await response.json())["error"]

    with_client(check)


def test_what_nobody_foresaw_is_an_answer_too(caplog):
    world = World()
    world.snapshot = None

    async def check(client: Client) -> None:
        assert await client.json("/pool") == (500, {"error": "internal error"})
        assert (await client.json("/healthz"))[0] == 200

    with_client(check, world)
    assert caplog.records[0].getMessage() == "admin page failed"


def test_the_pool_with_its_columns():
    async def check(client: Client) -> None:
        status, content = await client.json("/pool")
        assert status == 200
        first, second = content["endpoints"]
        assert (first["name"], first["authority"], first["waiting"]) == ("default/server-0", "10.0.0.1:8000", 3)
        assert first["scraped_age_s"] == pytest.approx(0.1)
        assert second["scraped_age_s"] is None
        assert {"backlog", "requests", "rate", "kv_usage", "labels"} <= set(first)

    with_client(check)


def test_strategies_and_configuration():
    async def check(client: Client) -> None:
        _, content = await client.json("/strategies")
        (strategy,), (chain,) = content["strategies"], content["chains"]
        assert strategy["name"] == "approximate"
        assert strategy["health"] == {"condition": "healthy", "reason": ""}
        assert set(strategy["size"]) == {"entries", "bytes", "tokens"}
        assert chain["order"] == ["approximate"]
        assert await client.json("/config") == (200, {"generation": 2, "asked": 0, "effective": {"a": 1, "b": 2}})

    with_client(check)


class TestConfiguration:
    def test_a_generation_and_what_changed(self):
        async def check(client: Client) -> None:
            assert await client.json("/config/1") == (200, {"effective": {"a": 1, "b": 1}})
            assert (await client.json("/config/7")) == (404, {"error": "generation 7 is not kept"})
            lines = (await client.json("/config/diff?from=1"))[1]["diff"]
            assert lines == ["--- generation 1", "+++ in force", "@@ -1,2 +1,2 @@", " a: 1", "-b: 1", "+b: 2"]
            assert (await client.json("/config/diff?from=1&to=1")) == (200, {"diff": []})
            assert (await client.json("/config/diff?from=1&to=5"))[0] == 404
            for query in ("", "?from=x", "?from=1&to=", "?from=-1"):
                assert (await client.json(f"/config/diff{query}"))[0] == 400

        with_client(check)

    def test_the_way_back(self):
        world = World()

        async def check(client: Client) -> None:
            for path, body in (("rollback", b""), ("rollback", b'{"generation": 1}'), ("pin", b""), ("unpin", b"")):
                async with client.session.post(f"/config/{path}", data=body) as answer:
                    assert answer.status == 200
                    assert (await answer.json())["generation"] == 2
            assert world.history.asked == [("rollback", None), ("rollback", 1), ("pin",), ("unpin",)]

        with_client(check, world)

    @pytest.mark.parametrize(
        ("body", "status"), [(b'{"generation": 9}', 409), (b"{", 400), (b'{"generations": 1}', 400), (b"\xff", 400)]
    )
    def test_what_cannot_be_done_is_a_sentence(self, body, status):
        async def check(client: Client) -> None:
            async with client.session.post("/config/rollback", data=body) as answer:
                assert answer.status == status
                assert (await answer.json())["error"]

        with_client(check)

    @pytest.mark.parametrize("headers", [{"Origin": "http://evil.test"}, {"x-forwarded-for": "10.0.0.1"}, {"Forwarded": "for=x"}])
    def test_a_web_page_and_a_proxy_change_nothing(self, headers):
        world = World()

        async def check(client: Client) -> None:
            async with client.session.post("/config/pin", headers=headers) as answer:
                assert answer.status == 403
            assert (await client.json("/config"))[0] == 200

        with_client(check, world)
        assert world.history.asked == []


def test_every_link_of_the_index_leads_somewhere():
    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.found += [value for name, value in attrs if name == "href"]

    world = World()
    world.health.set(Fact.POOL_SYNCED, True)

    async def check(client: Client) -> None:
        status, content_type, text = await client.get("/")
        assert status == 200
        assert content_type.startswith("text/html")
        links = Links()
        links.feed(text)
        assert len(links.found) == 7
        for link in links.found:
            assert (await client.get(f"/{link}"))[0] == 200

    with_client(check, world)


def test_behind_a_gate_everything_but_health_wants_a_token():
    async def ask(token: str, page: str) -> Verdict:
        return Verdict(Outcome.ALLOWED if page == token else Outcome.FORBIDDEN)

    async def main() -> None:
        world = World()
        world.health.set(Fact.POOL_SYNCED, True)
        async with world.served(gate=Gate(ask, clock=lambda: 0.0)) as client:
            elsewhere = {"X-Forwarded-For": "10.1.1.1"}
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path, **elsewhere))[0] == 200
            for path in ("/metrics", "/decisions", "/pool", "/strategies", "/config"):
                assert (await client.get(path, **elsewhere))[0] == 401
                assert (await client.get(path, Authorization="Bearer /", **elsewhere))[0] == 403
                assert (await client.get(path, Authorization=f"Bearer {path}", **elsewhere))[0] == 200
                assert (await client.get(path))[0] == 200, "in the pod"
            for path in ("/", "/nowhere", "/decisions/r1", "/config/1", "/config/diff?from=1"):
                assert (await client.get(path, **elsewhere))[0] == 401
            headers = {**elsewhere, "Authorization": "Bearer /config"}
            async with client.session.post("/config/pin", headers=headers) as answer:
                assert answer.status == 403, "who may see it may not change it"
        assert world.history.asked == []

    asyncio.run(main())


def test_a_taken_port_is_an_error_of_the_system():
    async def main() -> None:
        world = World()
        first = Admin(world.sources, world.metrics, world.ring, world.health)
        port = await first.start("127.0.0.1", 0)
        second = Admin(world.sources, world.metrics, world.ring, world.health)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await second.start("127.0.0.1", port)
        await second.stop()
        await first.stop()

    asyncio.run(main())
