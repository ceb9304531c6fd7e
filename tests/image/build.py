"""Does on this machine what a stage of a Dockerfile says: its COPY and RUN instructions, in directories of ours.

For where there is no Docker. Only what this project's file uses is understood; anything else is an error, so that nothing is
passed over.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

STEP_S = 300
TOPS = re.compile(r"(?<![\w.])/(?=opt/|build\b|wheels\b)")
"""Where the absolute paths of our file begin."""


@dataclass
class Stage:
    """A FROM, and the instructions that follow it."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """What is said by all instructions of one kind."""
        return [value for kind, value in self.instructions if kind == name]


def stages(text: str) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage with their defaults, and the stages."""
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    said = "\n".join(line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", said).splitlines():
        name, _, value = line.partition(" ")
        if name == "FROM":
            base, _, label = value.partition(" AS ")
            found.append(Stage(base, label))
        elif found:
            found[-1].instructions.append((name, value))
        else:
            assert name == "ARG", line
            key, _, default = value.partition("=")
            arguments[key] = default
    return arguments, found


def context(root: Path) -> Iterator[Path]:
    """The files that a build sees, as .dockerignore says: everything is left out but what is named."""
    nothing, *lines = [line for line in (root / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert nothing == "*"
    left_out = {line.removeprefix("**/") for line in lines if line.startswith("**/")}
    for named in (root / line.removeprefix("!") for line in lines if line.startswith("!")):
        for path in named.rglob("*") if named.is_dir() else [named]:
            if path.is_file() and not left_out & set(path.parts):
                yield path


class Build:
    """One stage, done.

    Args:
        root: of the project.
        directory: in the place of `/`.
        python: what the base image would have.
    """

    def __init__(self, root: Path, directory: Path, *, python: str) -> None:
        self._root, self._directory = root, directory
        self._seen = [path.relative_to(root).as_posix() for path in context(root)]
        self._work = directory
        self._environment = {**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}

    def run(self, stage: Stage) -> None:
        """Do every instruction. Settings of pip are not taken over: here it has those of this machine."""
        for name, value in stage.instructions:
            if name == "WORKDIR":
                self._work = self._directory / value.lstrip("/")
                self._work.mkdir(parents=True, exist_ok=True)
            elif name == "COPY":
                *sources, target = value.split()
                for source in sources:
                    self._copy(source, target)
            elif name == "RUN":
                self._shell(value)
            else:
                assert name in {"ARG", "ENV"}, name

    def _copy(self, source: str, target: str) -> None:
        files = [one for one in self._seen if one == source or one.startswith(f"{source}/")]
        assert files, f"COPY {source}: the build does not see it"
        for file in files:
            inside = Path(file).relative_to(source) if file != source else Path(Path(file).name if target.endswith("/") else "")
            there = self._work / target / inside
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._root / file, there)

    def _shell(self, command: str) -> None:
        command = TOPS.sub(f"{self._directory}/", command)
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=self._work,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
