"""The chart, rendered by the real Helm, as objects to ask questions of."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "epp"
RELEASE, NAMESPACE, NAME = "llama", "inference", "llama-epp"
POOL = "pool.selector.app=vllm"
"""The one value that has no default."""
ISSUED = ("tls.mode=cert-manager", "tls.certManager.issuerRef.name=inference-ca")
COMMAND_S = 60

Object = Mapping[str, Any]


class Refused(Exception):
    """Helm would not render it; the message is what it said."""


class Rendered:
    """What a set of values comes to."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = list(objects)

    @property
    def kinds(self) -> list[str]:
        """Sorted, one for each object."""
        return sorted(one["kind"] for one in self.objects)

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str) -> Object:
        """The only object of a kind."""
        (found,) = self.all(kind)
        return found

    def named(self, kind: str, name: str) -> Object:
        (found,) = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found

    @property
    def pod(self) -> Object:
        """Of the picker."""
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def containers(self) -> Iterator[Object]:
        """All of the pod's, sidecars among them."""
        yield from self.pod.get("initContainers", ())
        yield from self.pod["containers"]

    @property
    def picker(self) -> Object:
        (found,) = [one for one in self.pod["containers"] if one["name"] == "epp"]
        return found

    @property
    def flags(self) -> dict[str, str]:
        """Of the picker: name -> value."""
        pairs = (one.removeprefix("--").partition("=") for one in self.picker["args"][1:])
        return {name: value or "true" for name, _, value in pairs}

    @property
    def config(self) -> Mapping[str, Any]:
        """The picker's configuration."""
        return yaml.safe_load(self.named("ConfigMap", NAME)["data"]["config.yaml"])


class Chart:
    """Renders."""

    def __init__(self, helm: str, home: Path) -> None:
        self._helm = helm
        self._environment = {"HOME": str(home), "PATH": os.environ["PATH"]}

    def run(self, *arguments: str) -> str:
        """Helm's output.

        Raises:
            Refused: it failed.
        """
        command = [self._helm, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        if done.returncode:
            raise Refused(done.stderr + done.stdout)
        return done.stdout

    def template(self, *values: str, only_pool: bool = True, more: Sequence[str] = (), release: str = RELEASE) -> str:
        """The text that values (`a.b=c`) come to.

        Args:
            values: beside the pool's selector.
            only_pool: give that.
            more: further arguments of `helm template`.
            release: its name.
        """
        given = [*((POOL,) if only_pool else ()), *values]
        return self.run("template", release, str(CHART), "--namespace", NAMESPACE, *(f"--set={one}" for one in given), *more)

    def render(self, *values: str, only_pool: bool = True, more: Sequence[str] = (), release: str = RELEASE) -> Rendered:
        """The same as objects."""
        text = self.template(*values, only_pool=only_pool, more=more, release=release)
        return Rendered([one for one in yaml.load_all(text, yaml.CSafeLoader) if one])

    def notes(self, *values: str) -> str:
        """What Helm says after an installation."""
        given = [f"--set={one}" for one in (POOL, *values)]
        return self.run("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", *given).partition("NOTES:")[2]
