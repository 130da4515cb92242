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

"""Selectors: what a rule can name as a peer, and a policy as its subject.

A selector is identified by the hash of its canonical definition: two
policies that name the same peers in other words share one selector, and its
members are sent once.
"""

import dataclasses
import functools
import hashlib
import json
from typing import Mapping, Optional, Union

from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model


class _Selector:
    """What all kinds of selector have."""

    __slots__ = ()

    @property
    def definition(self) -> str:
        """Canonical JSON."""
        return _definition(self)

    @property
    def id(self) -> str:
        """Hash of the definition."""
        return _id(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Pods(_Selector):
    """Pods by their labels and their namespace.

    Source: Kubernetes API reference, ``NetworkPolicyPeer``.

    :ivar pods: what the pods' labels must meet.
    :ivar namespace: the one namespace whose pods are meant, by name.
    :ivar namespaces: what the labels of the pods' namespace must meet, if
        no name is given.
    """

    pods: labels.LabelSelector = labels.EVERYTHING
    namespace: Optional[str] = None
    namespaces: labels.LabelSelector = labels.EVERYTHING

    def plain(self):
        """What the definition says, as JSON types."""
        where = ({'namespace': self.namespace}
                 if self.namespace is not None
                 else {'namespaces': _plain(self.namespaces)})
        return {'pods': _plain(self.pods), **where}

    def matches(self, namespace: str, namespace_labels: Mapping[str, str],
                pod_labels: Mapping[str, str]) -> bool:
        """True if a pod with these labels in this namespace is meant."""
        if self.namespace is not None:
            if namespace != self.namespace:
                return False
        elif not labels.matches(self.namespaces, namespace_labels):
            return False
        return labels.matches(self.pods, pod_labels)


@dataclasses.dataclass(frozen=True, slots=True)
class Named(_Selector):
    """Those of some pods whose named port has one number.

    Source: Kubernetes API reference, ``NetworkPolicyPort``: a port's name is
    that of a container's port, of each pod for itself.

    :ivar name: name of the container's port.
    :ivar protocol: IANA number.
    :ivar port: what the name stands for.
    :ivar within: the addresses that are meant, if not all of the pods'.
    :ivar behind: likewise, the services whose backends are meant.
    """

    pods: Pods
    name: str
    protocol: int
    port: int
    within: Optional[model.Block] = None
    behind: Optional['Services'] = None

    def plain(self):
        """What the definition says, as JSON types."""
        found = {**self.pods.plain(), 'name': self.name,
                 'protocol': self.protocol, 'port': self.port}
        if self.within is not None:
            found['within'] = Block(self.within).plain()
        if self.behind is not None:
            found['behind'] = self.behind.plain()
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Block(_Selector):
    """Addresses, whoever has them, or only those outside the cluster."""

    block: model.Block

    def plain(self):
        """What the definition says, as JSON types."""
        found = {'cidr': self.block.cidr, 'except': list(self.block.excepts)}
        if self.block.outside:
            found['outside'] = True
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class Entity(_Selector):
    """What stands behind an address.

    :ivar entity: one of the ids of :mod:`entities`; also this one's.
    """

    entity: str

    @property
    def id(self) -> str:
        """The fixed id."""
        return self.entity

    def plain(self):
        """What the definition says, as JSON types."""
        return {'entity': self.entity}


@dataclasses.dataclass(frozen=True, slots=True)
class Nodes(_Selector):
    """Nodes by their labels.

    Source: network-policy-api, ``ClusterNetworkPolicyEgressPeer.nodes``.
    """

    nodes: labels.LabelSelector = labels.EVERYTHING

    def plain(self):
        """What the definition says, as JSON types."""
        return {'nodes': _plain(self.nodes)}


@dataclasses.dataclass(frozen=True, slots=True)
class Services(_Selector):
    """The backends of services, by the services' namespace, name, labels.

    Source: Cilium documentation, "Services based" policies.

    :ivar namespace: None for services of every namespace.
    :ivar name: None for services of every name.
    """

    namespace: Optional[str] = None
    name: Optional[str] = None
    services: labels.LabelSelector = labels.EVERYTHING

    def plain(self):
        """What the definition says, as JSON types."""
        return {'service': self.name, 'namespace': self.namespace,
                'services': _plain(self.services)}


#: Whatever a rule can name as a peer.
Peer = Union[Pods, Named, Block, Entity, Nodes, Services]


@functools.lru_cache(maxsize=65536)
def _definition(selector):
    return json.dumps(selector.plain(), sort_keys=True, separators=(',', ':'))


@functools.lru_cache(maxsize=65536)
def _id(selector):
    return hashlib.sha256(_definition(selector).encode()).hexdigest()


def _plain(selector):
    return [[requirement.key, requirement.operator, list(requirement.values)]
            for requirement in selector]
