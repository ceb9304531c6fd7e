"""The API server's REST interface for the tests themselves: as administrator, synchronous, JSON in and out, from any thread."""

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.kube.certificates import Certificates

TIMEOUT_S = 20.0
MERGE = "application/merge-patch+json"
Json = dict[str, Any]


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One administrator of one API server. A connection per call: nothing is kept that a restart of the server could break."""

    def __init__(self, port: int, certificates: Certificates) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(certificates.authority))
        self._context.load_cert_chain(certificates.admin, certificates.admin_key)

    def get(self, path: str, **query: str) -> Json:
        return self.call("GET", path, **query)

    def create(self, path: str, body: Json) -> Json:
        return self.call("POST", path, body)

    def patch(self, path: str, body: Json) -> Json:
        """Merge `body` into an object; null removes."""
        return self.call("PATCH", path, body, content_type=MERGE)

    def delete(self, path: str, *, grace_s: int | None = None) -> Json:
        query = {} if grace_s is None else {"gracePeriodSeconds": str(grace_s)}
        return self.call("DELETE", path, **query)

    def call(self, method: str, path: str, body: Json | None = None, *, content_type: str = "application/json", **query) -> Json:
        """Raises: Refused, OSError."""
        with self._connection() as connection:
            target = f"{path}?{urlencode(query)}" if query else path
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, target, data, {"content-type": content_type, "accept": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        if response.status >= 400:
            raise Refused(response.status, json.loads(text)["message"] if text.startswith("{") else text)
        return json.loads(text) if text.startswith("{") else {"text": text}

    def answers(self, path: str = "/readyz") -> bool:
        """Whether a path answers with success."""
        try:
            self.get(path)
        except (Refused, OSError, http.client.HTTPException):
            return False
        return True

    @contextmanager
    def _connection(self) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=TIMEOUT_S, context=self._context)
        try:
            yield connection
        finally:
            connection.close()


def kubeconfig(path: Path, *, server: str, authority: Path, user: Json, namespace: str = "default") -> Path:
    """Write a kubeconfig with one user; `user` as it stands there, such as `{"tokenFile": ...}`."""
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority": str(authority)}}],
                "users": [{"name": "user", "user": user}],
                "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user", "namespace": namespace}}],
                "current-context": "tests",
            }
        )
    )
    return path
