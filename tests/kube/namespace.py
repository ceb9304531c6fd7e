"""One namespace of one test: objects in it, and users who may do exactly what a list of rules says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.data_plane.rig import eventually
from tests.kube.api import Api, Json

if TYPE_CHECKING:
    from tests.kube.control_plane import ControlPlane

POOL_API, MODEL_API = "inference.networking.k8s.io/v1", "llm-d.ai/v1alpha2"
RBAC = "rbac.authorization.k8s.io"
TOKEN_S = 3600
Rule = Mapping[str, Sequence[str]]
"""One of a Role's rules: apiGroups, resources, verbs, perhaps resourceNames; or nonResourceURLs and verbs."""


class Namespace:
    """What a test sees of the API server."""

    def __init__(self, control_plane: ControlPlane, name: str) -> None:
        self.control_plane = control_plane
        self.name = name
        self.api: Api = control_plane.api

    def path(self, kind: str, name: str = "", *, api: str = "v1", sub: str = "") -> str:
        """The path of a kind of objects (its plural), or of one of them."""
        base = f"/api/{api}" if "/" not in api else f"/apis/{api}"
        return "/".join(part for part in (base, "namespaces", self.name, kind, name, sub) if part)

    def create(self, kind: str, body: Json, *, api: str = "v1") -> Json:
        """Make an object; `metadata.name` and whatever the kind needs are in `body`."""
        return self.api.create(self.path(kind, api=api), body)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """kubectl in this namespace, as administrator."""
        return self.control_plane.kubectl("--namespace", self.name, *arguments, stdin=stdin)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """helm in this namespace, as administrator."""
        return self.control_plane.helm("--namespace", self.name, *arguments, stdin=stdin)

    # The objects that a picker reads.

    def pool(self, name: str = "pool", *, labels: Mapping[str, str], ports: Sequence[int], **spec: Any) -> None:
        """Make an InferencePool."""
        body = {"metadata": {"name": name}, "apiVersion": POOL_API, "kind": "InferencePool"}
        body["spec"] = {"selector": {"matchLabels": dict(labels)}, "targetPorts": [{"number": port} for port in ports], **spec}
        self.create("inferencepools", body, api=POOL_API)

    def change_pool(self, name: str = "pool", **spec: Any) -> None:
        """Merge into the spec of a pool."""
        self.api.patch(self.path("inferencepools", name, api=POOL_API), {"spec": spec})

    def delete_pool(self, name: str = "pool") -> None:
        self.api.delete(self.path("inferencepools", name, api=POOL_API))

    def objective(self, name: str, priority: int | None, *, pool: str = "pool", api: str = MODEL_API) -> None:
        """Make an InferenceObjective."""
        spec: Json = {"poolRef": {"name": pool}} | ({} if priority is None else {"priority": priority})
        body = {"apiVersion": api, "kind": "InferenceObjective", "metadata": {"name": name}, "spec": spec}
        self.create("inferenceobjectives", body, api=api)

    def rewrite(self, name: str, rules: Sequence[Json], *, pool: str = "pool", api: str = MODEL_API) -> None:
        """Make an InferenceModelRewrite."""
        spec = {"poolRef": {"name": pool}, "rules": list(rules)}
        body = {"apiVersion": api, "kind": "InferenceModelRewrite", "metadata": {"name": name}, "spec": spec}
        self.create("inferencemodelrewrites", body, api=api)

    # Users.

    def service_account(
        self, name: str = "picker", rules: Sequence[Rule] | None = None, *, cluster_rules: Sequence[Rule] = (), server: str = ""
    ) -> Path:
        """Make a ServiceAccount that may do just this, and return its kubeconfig; its token lies in a file, as in a pod.

        Args:
            name: of it, its Role and its RoleBinding.
            rules: in this namespace; None: what the chart gives a picker, and not one right more.
            cluster_rules: everywhere.
            server: another address of the API server than its own, such as that of a `Link`.
        """
        self.create("serviceaccounts", {"metadata": {"name": name}})
        if rules is None:
            rules = self.control_plane.picker_rules()
        if rules:
            self.grant(name, rules, to=name)
        if cluster_rules:
            self.grant(f"{self.name}-{name}", cluster_rules, to=name, kind="ClusterRole")
        return self.kubeconfig(name, server=server)

    def grant(self, name: str, rules: Sequence[Rule], *, to: str, kind: str = "Role") -> None:
        """Make a Role or a ClusterRole and bind it to a ServiceAccount; returns when the API server heeds it."""
        base = f"/apis/{RBAC}/v1" + (f"/namespaces/{self.name}" if kind == "Role" else "")
        self.api.create(f"{base}/{kind.lower()}s", {"metadata": {"name": name}, "rules": json.loads(json.dumps(rules))})
        subject = {"kind": "ServiceAccount", "name": to, "namespace": self.name}
        binding = {"metadata": {"name": name}, "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name}, "subjects": [subject]}
        self.api.create(f"{base}/{kind.lower()}bindings", binding)
        for rule in rules:
            self._until_allowed(f"system:serviceaccount:{self.name}:{to}", rule)

    def kubeconfig(self, service_account: str, *, server: str = "") -> Path:
        """The kubeconfig of a ServiceAccount that exists, such as one that a chart has made."""
        control_plane = self.control_plane
        file = control_plane.directory / f"{self.name}-{service_account}.token"
        file.write_text(self.token(service_account))
        return control_plane.kubeconfig_for(
            f"{self.name}-{service_account}", {"tokenFile": str(file)}, server=server, namespace=self.name
        )

    def token(self, service_account: str, **spec: Any) -> str:
        """A token of a ServiceAccount, good for an hour; `audiences` say for whom, if not for the API server."""
        spec = {"expirationSeconds": TOKEN_S, **spec}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return self.api.create(self.path("serviceaccounts", service_account, sub="token"), request)["status"]["token"]

    def _until_allowed(self, user: str, rule: Rule) -> None:
        """The API server learns of its own rules a moment later."""
        if "nonResourceURLs" in rule:
            self._until_heeded(user, {"nonResourceAttributes": {"path": rule["nonResourceURLs"][0], "verb": rule["verbs"][0]}})
            return
        resource, _, sub = rule["resources"][0].partition("/")
        asked = {"namespace": self.name, "verb": rule["verbs"][0], "group": rule["apiGroups"][0], "resource": resource}
        asked |= {"subresource": sub} if sub else {}
        asked |= {"name": rule["resourceNames"][0]} if rule.get("resourceNames") else {}
        self._until_heeded(user, {"resourceAttributes": asked})

    def _until_heeded(self, user: str, asked: Json) -> None:
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user, **asked}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        eventually(lambda: self.api.create(path, review)["status"]["allowed"], f"{user} may {asked}")
