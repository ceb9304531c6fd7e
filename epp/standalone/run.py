"""`epp standalone`: an Envoy and a picker from one command, for a pool listed in a file.

The picker is a child process, `epp serve`, whose log is shown; Envoy is another, whose log is shown when something goes wrong. This
process starts them in order, keeps Envoy's endpoints in step with the pool file and the picker's configuration with the user's,
starts the picker again when it ends, ends with Envoy, and on SIGTERM or Ctrl-C lets open requests finish first. A second signal
does not wait.
"""

import signal
import socket
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import FrameType

from epp.config import load
from epp.config.file_watch import FileWatch, read_text
from epp.errors import ConfigError, LaunchError
from epp.scheduling.build import build
from epp.scheduling.registry import Registry
from epp.sockets import listen
from epp.standalone.endpoints import write
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
STARTS_MAX = 5
"""Starts of the picker in `STARTS_PERIOD_S` after which it is given up."""
STARTS_PERIOD_S = 60.0
REFUSED_CODE = 2
"""Exit code of a picker that a user has to help: a port taken, a file that cannot be used. It has said what, and would again."""


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
        self._watch = FileWatch(options.config_file) if options.config_file is not None else None
        text = read_text(options.config_file) if options.config_file is not None else None
        config, self._pool_file = picker_config(text, options.pool_file)
        self._config_file = directory / "picker.yaml"
        self._config_file.write_text(config, encoding="utf-8")
        self._endpoints_file = directory / "endpoints.json"
        self._follower = Follower(self._pool_file, self._endpoints_file, read_pool)
        with listen(LOOPBACK, options.metrics_port) as held:  # or whoever has it would be asked whether our picker is ready
            self._metrics_port: int = held.getsockname()[1]
            self._grpc_port, self._health_port = free_ports(2)
        self._starts_s: deque[float] = deque(maxlen=STARTS_MAX)
        """When the picker was last started, monotonic seconds."""

    def serve(self, signals: _Signals) -> int:
        """Start both, watch them, end both; return the exit code."""
        endpoints = self._follower.start(time.monotonic())
        picker, envoy = self._start_picker(), None
        grace_s = STOP_GRACE_S
        try:
            picker.wait_until(lambda: signals.stop or self._picker_is_ready(), PICKER_READY_TIMEOUT_S, "it is ready")
            envoy = self._start_envoy()
            self._say(envoy, endpoints)
            while not signals.stop:
                picker = self._look_after(picker, envoy)
                time.sleep(WATCH_INTERVAL_S)
            _drain(envoy, self._options.drain_timeout_s)
        except KeyboardInterrupt:
            grace_s = 0
            raise
        finally:
            if envoy is not None:
                envoy.child.stop(grace_s)
            picker.stop(grace_s)
        return 0

    def _look_after(self, picker: Child, envoy: Envoy) -> Child:
        """Follow both files; return the picker, a new one when the old one has ended. Raises LaunchError when Envoy has."""
        if envoy.child.exit_code is not None:
            raise LaunchError(f"envoy ended with code {envoy.child.exit_code}\n{envoy.child.tail()}")
        if trouble := self._follower.poll(time.monotonic()):
            print(f"epp: {trouble}; the endpoints stay as they are", file=sys.stderr, flush=True)
        self._follow_config()
        if picker.exit_code is None:
            return picker
        if picker.exit_code == REFUSED_CODE:
            raise LaunchError(f"the picker ended with code {REFUSED_CODE}, and would again")
        if len(self._starts_s) == STARTS_MAX and time.monotonic() - self._starts_s[0] < STARTS_PERIOD_S:
            raise LaunchError(
                f"the picker ended {STARTS_MAX} times in {STARTS_PERIOD_S:g} s, the last time with {picker.exit_code}"
            )
        print(f"epp: the picker ended with code {picker.exit_code}; starting it again", file=sys.stderr, flush=True)
        return self._start_picker()

    def _follow_config(self) -> None:
        """Hand a changed configuration to the picker, which takes it up while it runs; a bad one is said, and left alone."""
        if self._watch is None or not self._watch.changed():
            return
        try:
            write(self._config_file, self._checked(read_text(self._watch.path)))
        except ConfigError as error:
            print(f"epp: {error}; the configuration stays as it is", file=sys.stderr, flush=True)

    def _checked(self, text: str) -> str:
        """Return the picker's configuration for the user's, if a picker could start with it and would serve the same pool."""
        config, pool_file = picker_config(text, self._options.pool_file)
        build(load(config), Registry(allow_experimental=True))
        if pool_file != self._pool_file:
            raise ConfigError("another pool file wants a new start", "dataLayer.discovery")
        return config

    def _start_picker(self) -> Child:
        """Start `epp serve` on loopback, in plaintext: nothing leaves the machine."""
        self._starts_s.append(time.monotonic())
        ports = {"grpc": self._grpc_port, "grpc-health": self._health_port, "metrics": self._metrics_port}
        flags = [f"--{name}-port={port}" for name, port in ports.items()]
        fixed = ["--config-file", str(self._config_file), "--bind", LOOPBACK, "--secure-serving=false", "--drain-timeout=0s"]
        fixed += ["--log-format=text"]
        command = [sys.executable, "-m", "epp", "serve", *fixed, *flags, *self._options.serve_flags]
        return Child("picker", command, show=lambda line: print(line, file=sys.stderr, flush=True))

    def _picker_is_ready(self) -> bool:
        return fetch(LOOPBACK, self._metrics_port, "/readyz")[0] == HTTPStatus.OK

    def _start_envoy(self) -> Envoy:
        options = self._options
        return start(
            EnvoyOptions(
                listener=SocketAddress(host=options.host, port=options.port),
                admin=SocketAddress(port=options.admin_port),
                pickers=(SocketAddress(port=self._grpc_port),),
                picker_tls=False,
                pool=EndpointFile(path=self._endpoints_file),
                mode=options.mode,
                fail_open=options.fail_open,
                access_log=options.access_log,
            ),
            self._directory,
            concurrency=options.concurrency,
            binary=options.envoy,
            show=partial(print, flush=True) if options.access_log else None,
        )

    def _say(self, envoy: Envoy, endpoints: int) -> None:
        print(f"serving    http://{envoy.host}:{envoy.port}   {endpoints} endpoints of {self._pool_file}")
        print(f"metrics    http://{LOOPBACK}:{self._metrics_port}/metrics")
        print(f"envoy      http://{envoy.admin_host}:{envoy.admin_port}", flush=True)


def _drain(envoy: Envoy, timeout_s: float) -> None:
    """Let open requests finish, and no new ones begin, for at most `timeout_s`."""
    envoy.drain()
    deadline = time.monotonic() + timeout_s
    while envoy.active_requests() and time.monotonic() < deadline:
        time.sleep(DRAIN_POLL_S)


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on right now, each another."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
