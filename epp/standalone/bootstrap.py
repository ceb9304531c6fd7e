"""The configuration our own Envoy starts from, built as typed messages and written as JSON that a person can read.

A pure function of `EnvoyOptions`: `listener.py` builds what clients reach, `clusters.py` what Envoy reaches. A misspelt field is a
type error here and not a refusal at start.
"""

from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.core.v3 import Node

from epp.standalone.clusters import picker_cluster, pool_cluster
from epp.standalone.listener import listener
from epp.standalone.messages import address
from epp.standalone.options import EnvoyOptions


def bootstrap(options: EnvoyOptions) -> Bootstrap:
    """Return the bootstrap for one Envoy."""
    return Bootstrap(
        node=Node(id="llm", cluster="llm"),  # required as soon as any discovery is used, be it a file
        admin=Admin(address=address(options.admin)),
        static_resources=BootstrapStaticResources(
            listeners=[listener(options)],
            clusters=[picker_cluster(options), pool_cluster(options)],
        ),
    )
