"""Render what is derived from other files here: `make manifests`; with --check, say whether it is up to date.

    charts/epp/files/envoy.json       the bootstrap that epp/standalone builds, for the Envoy of the chart's standalone mode
    charts/epp/files/dashboard.json   the panels of hack/dashboard.py
    manifests/install/*.yaml          the chart, rendered for those who do not use Helm
    manifests/configmaps/*.yaml       the files of manifests/strategies as ConfigMaps

Helm is brought by hack/kube_assets.py, or else taken from PATH. Where there is none, --check says so and goes by with what needs no
Helm; with `EPP_NOTHING_SKIPPED` in the environment it fails.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import dashboard
import kube_assets

from epp.standalone.bootstrap import bootstrap
from epp.standalone.messages import to_json
from epp.standalone.options import EnvoyOptions, OriginalDestination, SocketAddress

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "epp"
MANIFESTS = ROOT / "manifests"
NAMESPACE = "default"
POOL = ("--set", "pool.selector.app=vllm")
ISSUED = ("--set", "tls.mode=cert-manager,tls.certManager.issuerRef.name=inference-ca")
AUTHORITY = ("--set", "gateway.istio.credentialName=inference-ca")
INSTALL: Mapping[str, tuple[str, Sequence[str]]] = {
    "epp": ("one picker and its InferencePool, for a gateway that needs nothing more", POOL),
    "active-active": (
        "several pickers, all of them active, where what they know does not depend on which one was asked",
        (*POOL, "--set", "replicas=3,strategy.chain={consistent-hash}", "--set", "networkPolicy.enabled=true"),
    ),
    "leader": ("several pickers of which one is elected, for `approximate`", (*POOL, "--set", "replicas=2")),
    "standalone": (
        "a picker with an Envoy of its own: no gateway, no InferencePool",
        (*POOL, "--set", "standalone.enabled=true,pool.create=false"),
    ),
    **{
        provider: (f"for {provider}", (*POOL, "--set", f"gateway.provider={provider}", *more))
        for provider, more in {
            "istio": (*ISSUED, *AUTHORITY),
            "gke": (),
            "agentgateway": (),
            "envoy-ai-gateway": (),
            "nginx-gateway-fabric": ISSUED,
            "kgateway": (),
        }.items()
    },
}
"""Name of a file -> what it is for, and the values it is rendered with."""

HELM_ONLY = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)
"""Labels that say how an object got here; with kubectl it did not get here by Helm."""


def envoy() -> str:
    """The bootstrap of the Envoy that stands beside one picker in a pod."""
    return to_json(
        bootstrap(
            EnvoyOptions(
                listener=SocketAddress(host="0.0.0.0", port=8080),
                admin=SocketAddress(port=9901),
                pickers=(SocketAddress(port=9002),),
                picker_tls=False,
                picker_health="liveness",
                pool=OriginalDestination(),
            )
        )
    )


def config_map(strategy: Path) -> str:
    """A strategy's file as the ConfigMap of a release called `epp`."""
    lines = strategy.read_text(encoding="utf-8").splitlines()
    text = "".join(f"    {line}\n" if line else "\n" for line in lines)
    what = f"# Generated from manifests/strategies/{strategy.name}: `kubectl apply` it, and the picker `epp` routes by it.\n"
    return f"{what}apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: epp\ndata:\n  config.yaml: |\n{text}"


def installation(helm: str, what: str, values: Sequence[str]) -> str:
    """The chart, rendered."""
    command = [helm, "template", "epp", str(CHART), "--namespace", NAMESPACE, *values]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(values)}: {done.stderr.strip()}")
    given = " ".join(values)
    return (
        f"# {what[0].upper()}{what[1:]}.\n# Generated: helm template epp charts/epp --namespace {NAMESPACE} {given}\n"
        + HELM_ONLY.sub("", done.stdout.replace("\n\n---", "\n---"))
    )


def find_helm() -> str:
    """Where Helm is; empty: nowhere."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epp" / "kube"
    try:
        return str(kube_assets.helm(cache))
    except kube_assets.Unavailable as error:
        if found := shutil.which("helm"):
            return found
        print(f"THE MANIFESTS ARE NOT CHECKED: there is no helm: {error}", file=sys.stderr)
        return ""


def wanted(helm: str) -> dict[Path, str]:
    """Every file that is derived, with its contents. The chart's come first, since manifests are rendered from them."""
    files = {CHART / "files" / "envoy.json": envoy(), CHART / "files" / "dashboard.json": dashboard.render()}
    files |= {MANIFESTS / "configmaps" / one.name: config_map(one) for one in sorted((MANIFESTS / "strategies").glob("*.yaml"))}
    if "--check" not in sys.argv[1:]:
        write(files)
    if helm:
        files |= {MANIFESTS / "install" / f"{name}.yaml": installation(helm, *how) for name, how in INSTALL.items()}
    return files


def write(files: Mapping[Path, str]) -> None:
    """Write them all."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def stale(files: Mapping[Path, str], helm: str) -> list[Path]:
    """Files that are not as they should be, or should not be there."""
    derived = [MANIFESTS / "configmaps", *([MANIFESTS / "install"] if helm else [])]
    there = {path for directory in derived for path in directory.glob("*")}
    changed = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return [*changed, *sorted(there - files.keys())]


def main() -> int:
    """Write everything, or with --check compare it."""
    helm = find_helm()
    if not helm and ("EPP_NOTHING_SKIPPED" in os.environ or "--check" not in sys.argv[1:]):
        return 1
    files = wanted(helm)
    if "--check" not in sys.argv[1:]:
        write(files)
        return 0
    wrong = stale(files, helm)
    for path in wrong:
        print(f"{path.relative_to(ROOT)} is not what it is made from; run `make manifests`", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
