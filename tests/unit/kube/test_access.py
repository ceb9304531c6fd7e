"""Where the API server's address and our credentials are found."""

import asyncio

import pytest

from epp.errors import ApiError, ConfigError
from epp.kube import access, client
from epp.kube.access import load_access, own_deployment, own_namespace
from epp.kube.client import Api
from tests.kube import certificates
from tests.unit.kube.api_server import refuses, says, serving, write_kubeconfig

CA = "-----BEGIN CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No Kubernetes around, and a service account that there can be."""
    for name in ("KUBECONFIG", "NAMESPACE", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", tmp_path / "account")
    return tmp_path


@pytest.fixture
def pod(monkeypatch, tmp_path):
    """We run in a pod."""
    from kubernetes.aio.config import incluster_config

    account = tmp_path / "account"
    account.mkdir()
    for name, text in {"token": "first", "namespace": "models\n", "ca.crt": CA}.items():
        (account / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    return account


def load():
    return asyncio.run(load_access())


def bearer(configuration):
    return asyncio.run(configuration.get_api_key_with_prefix("BearerToken"))


def test_in_a_pod_it_is_the_service_account(pod):
    configuration = load()
    assert configuration.host == "https://[fd00::1]:443"
    assert configuration.ssl_ca_cert == str(pod / "ca.crt")
    assert bearer(configuration) == "bearer first"


def test_a_file_named_on_purpose_comes_before_the_service_account(pod, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "config", "https://named", token="x")))
    assert load().host == "https://named"


def test_outside_it_is_the_file_at_home(tmp_path):
    (tmp_path / ".kube").mkdir()
    write_kubeconfig(tmp_path / ".kube" / "config", "https://home", token="x")
    assert load().host == "https://home"


def test_without_any_it_is_said_what_to_do():
    with pytest.raises(ConfigError, match=r"no Kubernetes: .* name a kubeconfig file in KUBECONFIG"):
        load()


@pytest.mark.parametrize(
    "text",
    ["", "7", "{", "contexts: []", "current-context: x\ncontexts: []", "current-context: x\ncontexts: 7\nclusters: 7\nusers: 7"],
)
def test_a_file_that_is_none_is_said_to_be(tmp_path, monkeypatch, text):
    file = tmp_path / "config"
    file.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(ConfigError, match=f"the kubeconfig {file} cannot be used"):
        load()


def test_a_service_account_that_is_none_is_said_to_be(pod):
    (pod / "ca.crt").write_text("")
    with pytest.raises(ConfigError, match="the service account of this pod cannot be used"):
        load()


@pytest.fixture
def old(monkeypatch):
    """Every token is old at once."""
    monkeypatch.setattr(access, "TOKEN_AGE_S_MAX", -1.0)


def test_the_token_of_a_pod_is_read_again(pod, old):
    configuration = load()
    (pod / "token").write_text("second")
    assert bearer(configuration) == "bearer second"


def test_a_token_file_is_read_again(tmp_path, monkeypatch, old):
    (tmp_path / "token").write_text("first")
    file = write_kubeconfig(tmp_path / "config", "http://x", tokenFile=str(tmp_path / "token"))
    monkeypatch.setenv("KUBECONFIG", str(file))
    configuration = load()
    (tmp_path / "token").write_text("second")
    assert bearer(configuration) == "Bearer second"


def test_a_token_that_cannot_be_read_again_stays_in_use(pod, old, caplog):
    configuration = load()
    (pod / "token").unlink()
    assert bearer(configuration) == "bearer first"
    assert bearer(configuration) == "bearer first"
    assert {record.message for record in caplog.records} == {"the credentials cannot be read again"}


def test_a_token_is_not_read_for_every_question(pod):
    configuration = load()
    (pod / "token").write_text("second")
    assert bearer(configuration) == "bearer first"


def test_the_token_that_is_read_again_is_the_one_that_is_sent(tmp_path, monkeypatch, old):
    async def main():
        async with serving(monkeypatch, tmp_path, lists=[says(200, {})]) as (server, _):
            (tmp_path / "token").write_text("first")
            file = write_kubeconfig(tmp_path / "config", server.url, tokenFile=str(tmp_path / "token"))
            monkeypatch.setenv("KUBECONFIG", str(file))
            async with Api() as api:
                await api.get("/x")
                (tmp_path / "token").write_text("second")
                await api.get("/x")
            assert [request.headers["Authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]

    asyncio.run(main())


@pytest.fixture
def soon(monkeypatch):
    """The configuration may be read again at once."""
    monkeypatch.setattr(client, "RENEWAL_S", 0.0)


def test_an_authority_that_was_replaced_is_read_again(tmp_path, monkeypatch, soon):
    old, new = (certificates.make(_directory(tmp_path, name)) for name in ("old", "new"))

    async def main():
        async with serving(monkeypatch, tmp_path, lists=[says(200, {})], certificates=new) as (server, _):
            monkeypatch.setenv(
                "KUBECONFIG", str(write_kubeconfig(tmp_path / "config", server.url, authority=old.authority, token="x"))
            )
            async with Api() as api:
                for _ in range(3):
                    with pytest.raises(ApiError, match="certificate verify failed"):
                        await api.get("/x")
                old.authority.write_bytes(new.authority.read_bytes())
                assert await api.get("/x") == b"{}"

    asyncio.run(main())


def test_credentials_that_are_refused_are_read_again(tmp_path, monkeypatch, soon):
    async def main():
        scripts = [refuses(401, "Unauthorized"), refuses(401, "Unauthorized"), says(200, {})]
        async with serving(monkeypatch, tmp_path, lists=scripts) as (server, _):
            file = tmp_path / "config"
            monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(file, server.url, token="first")))
            async with Api() as api:
                for _ in range(2):
                    with pytest.raises(ApiError, match="Unauthorized"):
                        await api.get("/x")
                    file.write_text("{")
                write_kubeconfig(file, server.url, token="second")
                await api.get("/x")
            assert [request.headers["Authorization"] for request in server.requests] == [
                "Bearer first",
                "Bearer first",
                "Bearer second",
            ]

    asyncio.run(main())


def _directory(path, name):
    directory = path / name
    directory.mkdir()
    return directory


def test_the_namespace_to_look_in(pod, monkeypatch):
    assert own_namespace() == "models"
    monkeypatch.setenv("NAMESPACE", "named")
    assert own_namespace() == "named"


def test_without_any_namespace_it_is_the_default_one():
    assert own_namespace() == "default"


@pytest.mark.parametrize("letters", [1, 46])
def test_the_deployment_is_what_the_pod_is_named_after(monkeypatch, letters):
    monkeypatch.setenv("POD_NAME", "a" * letters + "-5d9c7b5d9c-x2x4k")
    assert own_deployment() == "a" * letters


@pytest.mark.parametrize("name", ["", "picker", "picker-0", "-a-b"])
def test_a_pod_that_is_of_no_deployment(monkeypatch, name):
    monkeypatch.setenv("POD_NAME", name)
    with pytest.raises(ConfigError, match="set POD_NAME"):
        own_deployment()


@pytest.mark.parametrize("letters", [47, 48, 50, 56])
def test_a_pod_whose_name_was_cut(monkeypatch, letters):
    """By as little as the dash before its suffix: the Deployment is no longer told from what there is."""
    monkeypatch.setenv("POD_NAME", f"{'a' * letters}-5d9c7b5d9c-"[:58] + "x2x4k")
    with pytest.raises(ConfigError, match=r"was cut .* shorter"):
        own_deployment()
