#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""What the API server says: the objects of which policy is made.

The operator's own rights are used if there is a kubeconfig, else those of
the agent, which may not list everything: then what was compiled can't be
told, and why not is said instead.
"""

import dataclasses
import functools
from typing import Any, Mapping

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import client as k8s_client
from kuryr_cilium.k8s import resources
from kuryr_cilium.policy import pods as pods_

Object = Mapping[str, Any]

#: The kinds of policy.
POLICIES = (resources.NETWORK_POLICIES, *resources.CUSTOM_POLICIES)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Objects as the API has them.

    :ivar policies: by kind.
    """

    pods: tuple[Object, ...] = ()
    namespaces: tuple[Object, ...] = ()
    nodes: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    slices: tuple[Object, ...] = ()
    policies: Mapping[str, tuple[Object, ...]] = dataclasses.field(
        default_factory=dict)

    @functools.cached_property
    def by_uid(self) -> Mapping[str, pods_.Pod]:
        """The pods that policy applies to."""
        found = (pods_.read(obj) for obj in self.pods)
        return {pod.uid: pod for pod in found if pod is not None}


def read(client: k8s_client.Client) -> Cluster:
    """List everything.

    A kind of policy that the API server does not know has no objects.

    :raises: exceptions.KubernetesError, KubernetesAccessInvalid.
    """
    policies = {}
    for resource in POLICIES:
        try:
            policies[resource.kind] = _list(client, resource)
        except exceptions.KubernetesNotFound:
            policies[resource.kind] = ()
    return Cluster(
        _list(client, resources.PODS), _list(client, resources.NAMESPACES),
        _list(client, resources.NODES), _list(client, resources.SERVICES),
        _list(client, resources.ENDPOINT_SLICES), policies)


def _list(client, resource):
    return tuple(item for page in client.pages(resource.path())
                 for item in page.get('items') or ())
