"""h2load: many calls at once on several connections, none of them lost."""

import re
import subprocess
from pathlib import Path

import pytest

from epp.transport.routes import PROCESS_METHOD
from tests.transport.tools import bring
from tests.transport.waiting import eventually
from tests.unit.transport.raw import framed

CALLS, CONNECTIONS, AT_ONCE = 3_000, 5, 50
LOAD_S = 60


@pytest.fixture(scope="session")
def h2load() -> Path:
    return bring("h2load.sh")


@pytest.mark.parametrize("size", [100, 100_000])
def test_every_call_is_answered(h2load, native, tmp_path, size):
    calls = CALLS if size < 1_000 else CALLS // 10
    (tmp_path / "message").write_bytes(framed(bytes(size)))
    begun, _ = native.counts()
    url = f"{'https' if native.certificate else 'http'}://{native.address}{PROCESS_METHOD}"
    load = ["-n", str(calls), "-c", str(CONNECTIONS), "-m", str(AT_ONCE), "-d", str(tmp_path / "message")]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    report = subprocess.run([h2load, *load, *headers, url], capture_output=True, text=True, timeout=LOAD_S, check=True).stdout
    counted = {what: int(count) for count, what in re.findall(r"(\d+) (succeeded|failed|errored|timeout)", report)}
    assert counted == {"succeeded": calls, "failed": 0, "errored": 0, "timeout": 0}, report
    assert f"{calls} 2xx" in report
    assert int(re.search(r"\((\d+)\) data", report)[1]) == calls * (size + 5), report
    eventually(lambda: native.counts() == (begun + calls, begun + calls))
