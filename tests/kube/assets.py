"""Where the programs are that the Kubernetes tests stand on; `hack/kube_assets.py` brings them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "hack" / "kube_assets.py"
BUILD_S = 1800
OBJECTIVES, POOLS = "objectives", "inference"
LEGACY_GROUP, GROUP = "inference.networking.x-k8s.io", "llm-d.ai"


@dataclass(frozen=True, kw_only=True)
class Assets:
    """Programs, and directories of custom resource definitions by name."""

    kube_apiserver: str
    etcd: str
    kubectl: str
    helm: str
    crds: dict[str, Path]

    def definitions(self, name: str) -> list[dict]:
        """The definitions of one source of CRDs; "llm-d.ai" are the objectives and rewrites in their present group.

        The two groups have the same fields, and only the older is published as a module.
        """
        texts = [file.read_text() for file in sorted(self.crds[OBJECTIVES if name == GROUP else name].iterdir())]
        if name == GROUP:
            texts = [text.replace(LEGACY_GROUP, GROUP) for text in texts]
        return [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def find() -> Assets:
    """Bring what is missing and say where it is; skips, or fails with `EPP_NOTHING_SKIPPED`, where something cannot be had."""
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode:
        why = f"THE KUBERNETES TESTS DO NOT RUN: {'; '.join(done.stderr.strip().splitlines())}"
        if "EPP_NOTHING_SKIPPED" in os.environ:
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    found = json.loads(done.stdout)
    crds = {name: Path(directory) for name, directory in found.pop("crds").items()}
    return Assets(**{name.replace("-", "_"): path for name, path in found.items()}, crds=crds)
