"""`epp standalone`: an Envoy and a picker from one command, for a pool listed in a file.

The picker is a child process, `epp serve`, whose log is shown; Envoy is another, whose log is shown when something goes wrong. This
process starts them in order, keeps Envoy's endpoints in step with the pool file, ends both when one of them ends, and on SIGTERM or
Ctrl-C lets open requests finish first. A second signal does not wait.
"""

import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from epp.errors import LaunchError
from epp.standalone.flags import StandaloneOptions
from epp.standalone.follower import Follower, ReadPool
from epp.standalone.launcher import Envoy, fetch, start
from epp.standalone.options import EndpointFile, EnvoyOptions, SocketAddress
from epp.standalone.picker_config import picker_config
from epp.standalone.process import Child

LOOPBACK = "127.0.0.1"
PICKER_READY_TIMEOUT_S = 30.0
WATCH_INTERVAL_S = 0.25
DRAIN_POLL_S = 0.1
STOP_GRACE_S = 5.0


def run(options: StandaloneOptions, read_pool: ReadPool) -> int:
    """Serve until told to stop; return the exit code.

    Args:
        options: the flags.
        read_pool: reads the pool file; handed in, since discovery is not this package's business.

    Raises:
        ConfigError: the configuration or the pool file cannot be used.
        OSError: a file cannot be read, or a port is taken.
    """
    signals = _Signals()
    with tempfile.TemporaryDirectory(prefix="epp-standalone-") as directory, signals:
        try:
            return _Standalone(options, Path(directory), read_pool).serve(signals)
        except LaunchError as error:
            print(f"epp: {error}", file=sys.stderr)
            return 1


class _Signals:
    """Counts SIGTERM and SIGINT while it is entered; raises KeyboardInterrupt at the second."""

    def __init__(self) -> None:
        self._count = 0

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def stop(self) -> bool:
        """Whether a signal has come."""
        return self._count > 0

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            raise KeyboardInterrupt


class _Standalone:
    """The two processes and the files between them."""

    def __init__(self, options: StandaloneOptions, directory: Path, read_pool: ReadPool) -> None:
        self._options = options
        self._directory = directory
        text = options.config_file.read_text(encoding="utf-8") if options.config_file is not None else None
        config, pool_file = picker_config(text, options.pool_file)
        self._config_file = directory / "picker.yaml"
        self._config_file.write_text(config, encoding="utf-8")
        self._endpoints_file = directory / "endpoints.json"
        self._follower = Follower(pool_file, self._endpoints_file, read_pool)
        self._pool_file = pool_file

    def serve(self, signals: _Signals) -> int:
        """Start both, watch them, end both; return the exit code."""
        endpoints = self._follower.start(time.monotonic())
        grpc_port = free_port()
        picker = self._start_picker(grpc_port)
        envoy = None
        grace_s = STOP_GRACE_S
        try:
            ready = f"http://{LOOPBACK}:{self._options.metrics_port}/readyz"
            picker.wait_until(self._picker_is_ready, PICKER_READY_TIMEOUT_S, f"{ready} says so")
            envoy = self._start_envoy(grpc_port)
            self._say(envoy, endpoints)
            self._watch(picker, envoy, signals)
            _drain(envoy, self._options.drain_timeout_s)
        except KeyboardInterrupt:
            grace_s = 0
            raise
        finally:
            if envoy is not None:
                envoy.child.stop(grace_s)
            picker.stop(grace_s)
        return 0

    def _start_picker(self, grpc_port: int) -> Child:
        """Start `epp serve` on loopback, in plaintext: nothing leaves the machine."""
        ports = {"grpc-port": grpc_port, "grpc-health-port": free_port(), "metrics-port": self._options.metrics_port}
        flags = [f"--{name}={value}" for name, value in ports.items()]
        fixed = ["--config-file", str(self._config_file), "--bind", LOOPBACK, "--secure-serving=false", "--drain-timeout=0s"]
        command = [sys.executable, "-m", "epp", "serve", *fixed, *flags, *self._options.serve_flags]
        return Child("picker", command, show=lambda line: print(line, file=sys.stderr, flush=True))

    def _picker_is_ready(self) -> bool:
        return fetch(LOOPBACK, self._options.metrics_port, "/readyz")[0] == 200

    def _start_envoy(self, grpc_port: int) -> Envoy:
        options = self._options
        return start(
            EnvoyOptions(
                listener=SocketAddress(host=options.host, port=options.port),
                admin=SocketAddress(port=options.admin_port),
                pickers=(SocketAddress(port=grpc_port),),
                picker_tls=False,
                pool=EndpointFile(path=self._endpoints_file),
                mode=options.mode,
                fail_open=options.fail_open,
                access_log=options.access_log,
            ),
            self._directory,
            concurrency=options.concurrency,
            binary=options.envoy,
            show=print if options.access_log else None,
        )

    def _say(self, envoy: Envoy, endpoints: int) -> None:
        print(f"serving    http://{envoy.host}:{envoy.port}   {endpoints} endpoints of {self._pool_file}")
        print(f"metrics    http://{LOOPBACK}:{self._options.metrics_port}/metrics")
        print(f"envoy      http://{envoy.admin_host}:{envoy.admin_port}", flush=True)

    def _watch(self, picker: Child, envoy: Envoy, signals: _Signals) -> None:
        """Return at a signal. Raises LaunchError when one of the two ends by itself."""
        while not signals.stop:
            for child in (picker, envoy.child):
                if child.exit_code is not None:
                    raise LaunchError(f"{child.name} ended with code {child.exit_code}\n{child.tail()}")
            if trouble := self._follower.poll(time.monotonic()):
                print(f"epp: {trouble}; the endpoints stay as they are", file=sys.stderr, flush=True)
            time.sleep(WATCH_INTERVAL_S)


def _drain(envoy: Envoy, timeout_s: float) -> None:
    """Let open requests finish, and no new ones begin, for at most `timeout_s`."""
    envoy.drain()
    deadline = time.monotonic() + timeout_s
    while envoy.active_requests() and time.monotonic() < deadline:
        time.sleep(DRAIN_POLL_S)


def free_port() -> int:
    """Return a port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port
