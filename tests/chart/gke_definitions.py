"""The definitions of GKE's two policies, as far as the chart uses them.

They are not published as a module, so they are restated here from their documentation: which fields there are, their types and
bounds. Whatever else is written is refused, as an unknown field.
"""

from typing import Any

Schema = dict[str, Any]
GROUP = "networking.gke.io"
TEXT: Schema = {"type": "string"}
PORT_SPECIFICATION: Schema = {"type": "string", "enum": ["USE_FIXED_PORT", "USE_NAMED_PORT", "USE_SERVING_PORT"]}
SECONDS: Schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": 2147483647}


def _object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


HTTP_CHECK = _object(
    requestPath={"type": "string", "pattern": r"\/[A-Za-z0-9\/\-._~%!?$&'()*+,;=:]*$"},
    portSpecification=PORT_SPECIFICATION,
    port={"type": "integer", "minimum": 1, "maximum": 65535},
)
CHECK_CONFIG = _object(type=TEXT, httpHealthCheck=HTTP_CHECK) | {"minProperties": 2, "maxProperties": 2}
HEALTH = _object(config=CHECK_CONFIG)
BACKEND = _object(timeoutSec=SECONDS, logging=_object(enabled={"type": "boolean"}))


def _definition(kind: str, plural: str, default: Schema) -> dict[str, Any]:
    target = _object("group", "kind", "name", group=TEXT, kind=TEXT, name=TEXT)
    schema = _object("spec", spec=_object("targetRef", targetRef=target, default=default))
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


DEFINITIONS = (
    _definition("HealthCheckPolicy", "healthcheckpolicies", HEALTH),
    _definition("GCPBackendPolicy", "gcpbackendpolicies", BACKEND),
)
