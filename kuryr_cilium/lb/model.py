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

"""Services: what controller and agents say of them.

Everything here is a value: frozen, hashable, compared by content.
"""

import dataclasses
from typing import Optional


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Backend:
    """One address at which a port of a service is served.

    :ivar address: canonical address.
    :ivar port: its number there.
    :ivar node: name of the node that it is on; '' if it is on none.
    :ivar draining: it serves, and is about to end: asked only where nobody
        else is.
    :ivar zones: zones whose clients it is meant for (EndpointSlice
        ``hints.forZones``); none: no hint was given.
    :ivar nodes: nodes whose clients it is meant for (``hints.forNodes``).
    :ivar mac: MAC address of the pod's port, '' if it is no pod of ours.
    :ivar network_id: the Neutron network of that port.
    """

    address: str
    port: int
    node: str = ''
    draining: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    mac: str = ''
    network_id: str = ''


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of a service.

    :ivar name: '' if it has none.
    :ivar protocol: IANA number.
    :ivar port: the service's own number.
    :ivar node_port: the number on every node's address; 0 for none.
    :ivar backends: of both address families, sorted.
    """

    name: str
    protocol: int
    port: int
    node_port: int = 0
    backends: tuple[Backend, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Service:
    """A service with its backends.

    :ivar created: its creationTimestamp: of two that claim an address the
        older has it.
    :ivar addresses: cluster addresses, canonical.
    :ivar external: external addresses and those of load balancers.
    :ivar ports: sorted.
    :ivar affinity: seconds for which a client keeps its backend; 0: none.
    :ivar internal_local: what comes from a node's own pods stays on it
        (``internalTrafficPolicy: Local``).
    :ivar external_local: what comes from outside is served by backends on
        the node that it comes to (``externalTrafficPolicy: Local``).
    :ivar source_ranges: canonical networks whose clients may ask what is
        external (``loadBalancerSourceRanges``); None: everybody may.
    :ivar health_port: where each node tells how many backends it has
        (``healthCheckNodePort``); 0: nowhere.
    """

    namespace: str
    name: str
    created: str
    addresses: tuple[str, ...]
    external: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    affinity: int = 0
    internal_local: bool = False
    external_local: bool = False
    source_ranges: Optional[tuple[str, ...]] = None
    health_port: int = 0

    @property
    def id(self) -> str:
        """``namespace/name``."""
        return '%s/%s' % (self.namespace, self.name)


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A node, as far as services are concerned.

    :ivar zone: its zone (label ``topology.kubernetes.io/zone``), '' for
        none.
    :ivar addresses: canonical addresses, on which it has node ports.
    """

    name: str
    zone: str = ''
    addresses: tuple[str, ...] = ()
