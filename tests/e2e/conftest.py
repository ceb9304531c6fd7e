"""End to end in containers, where a Docker daemon exists: `make e2e`. Not part of `make test`, which shows the same without them.

Images are built and pulled, and a Kubernetes is started in a container; minutes. Other sources than the public ones, by variables:

    EPP_E2E_BUILD_ARGS    of the picker's image, such as "BASE=registry.example/python:3.11 PIP_INDEX_URL=https://..."
    EPP_E2E_ENVOY         Envoy's image, if not the chart's
    EPP_E2E_K3S           image of k3s, if not testcontainers' own
"""

import os

import pytest

collect_ignore_glob = [] if "EPP_E2E" in os.environ else ["test_*.py"]


def no_docker() -> str:
    """Why there is no Docker daemon here; empty: there is one."""
    import docker

    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        return str(error) or type(error).__name__
    return ""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Say in one line that nothing runs, where nothing can."""
    if session.items and all(item.path.parent.name == "e2e" for item in session.items) and (why := no_docker()):
        pytest.exit(f"THE END-TO-END TESTS DID NOT RUN, there is no Docker daemon here: {why}", returncode=0)


@pytest.fixture(scope="session")
def image() -> str:
    """The picker's image, built from the Dockerfile."""
    import docker

    from tests.chart.rendered import ROOT

    given = dict(one.split("=", 1) for one in os.environ.get("EPP_E2E_BUILD_ARGS", "").split())
    name = "epp.test/epp:e2e"  # with a host that exists nowhere: nobody pulls it by mistake
    docker.from_env().images.build(path=str(ROOT), tag=name, buildargs=given, rm=True)
    return name
