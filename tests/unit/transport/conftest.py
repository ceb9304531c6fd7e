"""Every test that asks for `serving` runs over each transport, the native one on both event loops."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
import uvloop

from epp.transport.base import Transport
from epp.transport.grpc_aio import GrpcAioTransport
from epp.transport.native import NativeTransport
from tests.unit.transport.streams import serving_with

CARRIERS = {
    "native": (NativeTransport, asyncio.run),
    "native-uvloop": (NativeTransport, uvloop.run),
    "grpcio": (GrpcAioTransport, asyncio.run),
}


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> tuple[type[Transport], Callable]:
    return CARRIERS[request.param]


@pytest.fixture
def kind(carrier) -> type[Transport]:
    return carrier[0]


@pytest.fixture
def serving(kind):
    """A server for one test: `serving(accept, health, **options)`."""
    return partial(serving_with, kind)


@pytest.fixture
def run(carrier):
    """What runs a coroutine on the event loop of this round."""
    return carrier[1]
