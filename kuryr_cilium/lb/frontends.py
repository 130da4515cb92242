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

"""From services to the addresses that a node's pods may ask; pure.

Sources: Kubernetes documentation, "Virtual IPs and Service Proxies",
"Service", sections on traffic policies, "Topology Aware Routing".
"""

from typing import Iterable, Iterator, NamedTuple

from kuryr_cilium.lb import model

#: Stand for the addresses of every node.
ANY = {4: '0.0.0.0', 6: '::'}


class Key(NamedTuple):
    """An address that is asked.

    :ivar port: 0: every port that the address has no entry of.
    :ivar protocol: IANA number; 0 with port 0.
    """

    address: str
    port: int
    protocol: int


class Target(NamedTuple):
    """Where it leads to."""

    address: str
    port: int
    mac: str
    network_id: str


class Group(NamedTuple):
    """Addresses of a service by which a client gets the same backend.

    :ivar port: the service's own number.
    :ivar local: what comes from a node's own pods stays on it.
    """

    protocol: int
    port: int
    local: bool


class Frontend(NamedTuple):
    """What becomes of what is sent to a key; without targets it is refused.

    :ivar affinity: seconds for which a client keeps its target; 0: none.
    :ivar alive: (address, port) of backends that may keep flows they have.
    """

    key: Key
    targets: tuple[Target, ...]
    affinity: int
    group: Group
    alive: frozenset[tuple[str, int]]


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ':' in address else 4


def frontends(service: model.Service, node: str,
              zone: str) -> Iterator[Frontend]:
    """Every address of a service, as pods of a node see it.

    :param zone: the node's zone, '' if it has none.
    """
    families = sorted({*map(family, service.addresses)})
    external = [address for address in service.external
                if address not in service.addresses]
    for port in service.ports:
        backends = {version: [backend for backend in port.backends
                              if family(backend.address) == version]
                    for version in families}
        for version, found in backends.items():
            alive = frozenset((backend.address, backend.port)
                              for backend in found)
            near = _targets(usable(found, node, zone))
            local = service.internal_local
            inside = _targets(_ready(
                backend for backend in found if backend.node == node
            )) if local else near
            for address in service.addresses:
                if family(address) == version:
                    yield Frontend(
                        Key(address, port.port, port.protocol), inside,
                        service.affinity,
                        Group(port.protocol, port.port, local), alive)
            # What a pod sends to an address that is meant for clients
            # outside takes the short way, whatever externalTrafficPolicy is.
            group = Group(port.protocol, port.port, False)
            # One of another family is not served: a balancer may translate.
            for address in external:
                if family(address) == version:
                    yield Frontend(
                        Key(address, port.port, port.protocol), near,
                        service.affinity, group, alive)
            if port.node_port:
                yield Frontend(
                    Key(ANY[version], port.node_port, port.protocol), near,
                    service.affinity, group, alive)
    for address in service.addresses:
        yield Frontend(Key(address, 0, 0), (), 0, Group(0, 0, False),
                       frozenset())


def usable(backends: Iterable[model.Backend], node: str,
           zone: str) -> list[model.Backend]:
    """Those of some backends that may be asked.

    The ready ones, else those that drain. Hints narrow ready ones if each of
    them has hints and one of them is meant for this node (or zone).
    """
    found = _ready(backends)
    if any(backend.draining for backend in found):
        return found
    for hints, here in (('nodes', node), ('zones', zone)):
        if all(getattr(backend, hints) for backend in found):
            meant = [backend for backend in found
                     if here in getattr(backend, hints)]
            if meant:
                return meant
    return found


def _ready(backends):
    found = list(backends)
    return [backend for backend in found if not backend.draining] or found


def _targets(backends):
    return tuple(Target(backend.address, backend.port, backend.mac,
                        backend.network_id) for backend in backends)
