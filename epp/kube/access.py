"""Which API server, and as whom: the configuration of the client library, from the usual places.

In the order of the client libraries of Kubernetes: the file (or files) named by `KUBECONFIG`, the service account of the pod we run
in, `~/.kube/config`. Tokens are short-lived: a minute after it was read, a token is read again before it is used.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from epp.errors import ConfigError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

KUBECONFIG = "KUBECONFIG"
HOME_CONFIG = "~/.kube/config"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts what a pod needs to speak to its API server."""
TOKEN_AGE_S_MAX = 60.0
"""How long a token is used before it is read again."""
POD_NAME_MAX = 63
"""Characters; Kubernetes cuts what a pod is named after, to put its suffix behind it."""
POD_SUFFIX = 5
"""Characters that tell a Deployment's pods apart, which have a dash before them unless that was cut."""

_log = logging.getLogger(__name__)


async def load_access() -> "Configuration":
    """Return the client library's configuration; blocks for the time it takes to read a file or two.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    # 0.3 s and 30 MB: not to be paid where there is no Kubernetes.
    from kubernetes.aio.client import Configuration  # noqa: PLC0415
    from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config  # noqa: PLC0415

    configuration = Configuration()
    file = os.environ.get(KUBECONFIG, "")
    if not file and in_cluster():
        try:
            load_incluster_config(configuration, try_refresh_token=False)
        except (ConfigException, OSError) as error:
            raise ConfigError(f"the service account of this pod cannot be used: {error}") from None
        configuration.refresh_api_key_hook = _Again(lambda it: load_incluster_config(it, try_refresh_token=False))
        return configuration
    file = file or HOME_CONFIG
    if not _exists(file):
        raise ConfigError(f"no Kubernetes: not in a pod of one, and there is no {file}; name a kubeconfig file in {KUBECONFIG}")
    try:
        loader = await load_kube_config(file, client_configuration=configuration, persist_config=False)
    except (ConfigException, OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the kubeconfig {file} cannot be used: {error}") from None
    configuration.refresh_api_key_hook = _Again(loader.load_and_set)
    return configuration


def in_cluster() -> bool:
    """Return whether we run in a pod that was given a service account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT / "token").is_file()


def own_namespace() -> str:
    """Return the namespace to look in when none is named: of the variable NAMESPACE, of the pod we run in, else `default`."""
    named = os.environ.get("NAMESPACE", "")
    if named:
        return named
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


def own_deployment() -> str:
    """Return the name of the Deployment that we are of: the pod's, without the two parts that tell its pods apart.

    Raises:
        ConfigError: the variable POD_NAME does not say which pod this is, or of a name so long that it was cut.
    """
    pod = os.environ.get("POD_NAME", "")
    if len(pod) == POD_NAME_MAX and pod[-POD_SUFFIX - 1] != "-":
        raise ConfigError(f"the name of this pod was cut ({pod}): an election without a pool wants a shorter one of the Deployment")
    name, *parts = pod.rsplit("-", 2)
    if len(parts) != 2 or not name:
        raise ConfigError("an election without a pool goes by the name of the Deployment: set POD_NAME to the name of this pod")
    return name


def _exists(files: str) -> bool:
    """Return whether any of the files of a `KUBECONFIG` is there."""
    return any(Path(file).expanduser().is_file() for file in files.split(os.pathsep) if file)


class _Again:
    """Reads the credentials again when they are old; a failure leaves the old ones in use."""

    def __init__(self, load: Callable[[Any], Awaitable[None] | None]) -> None:
        self._load = load
        self._read_s = time.monotonic()

    async def __call__(self, configuration: "Configuration") -> None:
        now_s = time.monotonic()
        if now_s - self._read_s < TOKEN_AGE_S_MAX:
            return
        self._read_s = now_s
        try:
            loading = self._load(configuration)
            if loading is not None:
                await loading
        except Exception as error:  # noqa: BLE001 - of whatever plugin the file names
            _log.warning("the credentials cannot be read again", extra={"error": str(error)})
