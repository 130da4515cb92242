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

"""The kinds of object that are read or written, and their URLs."""

import dataclasses
import urllib.parse


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object in the API.

    :ivar plural: the resource's name in URLs.
    :ivar kind: the kind's name in objects.
    :ivar group: API group, '' for the core.
    :ivar version: version of the group.
    :ivar namespaced: whether its objects are in namespaces.
    """

    plural: str
    kind: str
    group: str = ''
    version: str = 'v1'
    namespaced: bool = True

    @property
    def group_path(self):
        """The path of the group, which lists its versions."""
        return '/apis/' + self.group

    @property
    def api_version(self):
        """What objects say in ``apiVersion``."""
        return f'{self.group}/{self.version}' if self.group else self.version

    def path(self, namespace=None, name=None, subresource=None):
        """The path of an object, or of a list of them without a name.

        :param namespace: None for a list over all namespaces, and for what
            is in no namespace.
        """
        parts = ['apis' if self.group else 'api', self.api_version]
        if namespace is not None:
            parts += ['namespaces', urllib.parse.quote(namespace, safe='')]
        parts.append(self.plural)
        if name is not None:
            parts.append(urllib.parse.quote(name, safe=':'))
        if subresource is not None:
            parts.append(subresource)
        return '/' + '/'.join(parts)


PODS = Resource('pods', 'Pod')
NAMESPACES = Resource('namespaces', 'Namespace', namespaced=False)
NODES = Resource('nodes', 'Node', namespaced=False)
EVENTS = Resource('events', 'Event')
NETWORK_POLICIES = Resource('networkpolicies', 'NetworkPolicy',
                            'networking.k8s.io')
LEASES = Resource('leases', 'Lease', 'coordination.k8s.io')
SERVICES = Resource('services', 'Service')
ENDPOINT_SLICES = Resource('endpointslices', 'EndpointSlice',
                           'discovery.k8s.io')
CLUSTER_NETWORK_POLICIES = Resource(
    'clusternetworkpolicies', 'ClusterNetworkPolicy',
    'policy.networking.k8s.io', 'v1beta1', namespaced=False)
CILIUM_NETWORK_POLICIES = Resource(
    'ciliumnetworkpolicies', 'CiliumNetworkPolicy', 'cilium.io', 'v2')
CILIUM_CLUSTERWIDE_NETWORK_POLICIES = Resource(
    'ciliumclusterwidenetworkpolicies', 'CiliumClusterwideNetworkPolicy',
    'cilium.io', 'v2', namespaced=False)

#: Policies of definitions that a cluster may have or not.
CUSTOM_POLICIES = (CLUSTER_NETWORK_POLICIES, CILIUM_NETWORK_POLICIES,
                   CILIUM_CLUSTERWIDE_NETWORK_POLICIES)
