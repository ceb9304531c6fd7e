"""Objectives, rewrites and the saturation detector are a part of the configuration, and change with it."""

import asyncio

from epp.errors import Overloaded
from epp.model.decision import Decision
from epp.objectives.objectives import Source
from tests.unit.live.world import APPROXIMATE, World

BATCH = f"{APPROXIMATE}\nobjectives: [{{name: batch, priority: -1}}]"
RENAMED = f"{APPROXIMATE}\nmodelRewrites: [{{name: r, rules: [{{targets: [{{modelRewrite: other}}]}}]}}]"
ROOMY = "plugins: [{type: concurrency-detector}]"


def ask(world: World, objective: str = "batch") -> Decision | Overloaded:
    return world.ask(headers={"x-llm-d-inference-objective": objective})


def test_objectives_and_the_detector_change_between_two_requests():
    async def script():
        world = World()  # the endpoints have never reported, so that the pool is taken to be full
        assert isinstance(ask(world), Decision)
        await world.offer(BATCH)
        assert isinstance(ask(world), Overloaded)
        await world.offer(f"{BATCH}\n{ROOMY}")
        assert isinstance(ask(world), Decision)
        await world.offer(f"{BATCH}\n{ROOMY[:-2]}, parameters: {{maxConcurrency: 1}}}}]")
        assert [type(ask(world)) for _ in range(3)] == [Decision, Overloaded, Overloaded], "two of three were under way"
        await world.offer(APPROXIMATE)
        assert isinstance(ask(world), Decision)

    asyncio.run(script())


def test_rewrites_change_between_two_requests():
    async def script():
        world = World()
        assert world.ask().request.target_model == "tiny"
        await world.offer(RENAMED)
        assert world.ask().request.target_model == "other"
        await world.offer(APPROXIMATE)
        assert world.ask().request.target_model == "tiny"

    asyncio.run(script())


def test_those_of_the_cluster_stay():
    async def script():
        world = World(BATCH)
        world.assembly.director.objectives.set_priorities(Source.CLUSTER, {"theirs": -2})
        await world.offer(RENAMED)
        assert world.assembly.director.objectives.priorities == {"theirs": -2}
        assert isinstance(ask(world, "theirs"), Overloaded)

    asyncio.run(script())
