"""What is brought for these tests, and what is said where it cannot be had."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kube import assets

spec = importlib.util.spec_from_file_location("kube_assets", assets.SCRIPT)
kube_assets = importlib.util.module_from_spec(spec)
sys.modules["kube_assets"] = kube_assets
spec.loader.exec_module(kube_assets)


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    """A machine without Go and without programs on PATH, and a cache with nothing in it."""
    monkeypatch.setattr(kube_assets.shutil, "which", lambda program, path=None: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "cache"


def test_everything_that_cannot_be_had_is_a_line(nothing_here, monkeypatch):
    monkeypatch.setattr(kube_assets.sys, "executable", "no-python")
    found, missing = kube_assets.collect(nothing_here)
    assert found == {"crds": {}}
    assert [line.partition(":")[0] for line in missing][:4] == ["kubectl", "helm", "etcd", "kube-apiserver"]
    assert "kube-apiserver: there is no Go here" in missing
    assert len(missing) == 4 + len(kube_assets.CRDS)
    assert not any("\n" in line for line in missing)
    left = [path for path in nothing_here.rglob("*") if path.is_file()]
    assert left == [nothing_here / "lock"], "nothing half made"


def test_given_programs_are_taken(tmp_path, monkeypatch):
    for name in ("kube-apiserver", "etcd"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    cache = tmp_path / "cache"
    assert kube_assets.kube_apiserver(cache) == tmp_path / "kube-apiserver"
    assert kube_assets.etcd(cache) == tmp_path / "etcd"


def test_a_second_time_it_is_quick_and_says_the_same(control_plane):
    done = subprocess.run([sys.executable, str(assets.SCRIPT)], capture_output=True, text=True, timeout=10, check=True)
    said = json.loads(done.stdout)
    assert done.stderr == ""
    assert said.pop("crds").keys() == {one.name for one in kube_assets.CRDS}
    assert all(os.access(program, os.X_OK) for program in said.values())
    assert not any(Path(program).is_relative_to(assets.SCRIPT.parents[1]) for program in said.values()), "outside the checkout"


@pytest.mark.parametrize(("strict", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_without_them_these_tests_say_loudly_that_they_do_not_run(monkeypatch, strict, outcome):
    refusal = subprocess.CompletedProcess([], kube_assets.MISSING, stdout='{"crds": {}}', stderr="etcd: no\nhelm: no\n")
    monkeypatch.setattr(assets.subprocess, "run", lambda *_, **__: refusal)
    monkeypatch.delenv("EPP_NOTHING_SKIPPED", raising=False)
    if strict:
        monkeypatch.setenv("EPP_NOTHING_SKIPPED", "1")
    with pytest.raises(outcome, match="THE KUBERNETES TESTS DO NOT RUN: etcd: no; helm: no"):
        assets.find()
