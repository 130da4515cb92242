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

"""From services to the addresses that may be asked on a node; pure.

Pods and the node itself ask in one scope, clients outside in another.

Sources: Kubernetes documentation, "Virtual IPs and Service Proxies",
"Service", sections on traffic policies, "Topology Aware Routing".
"""

from typing import Iterable, Iterator, NamedTuple

from kuryr_cilium.lb import model

#: Stand for the addresses of every node.
ANY = {4: '0.0.0.0', 6: '::'}

#: Scopes of keys: what pods and the node itself ask, what clients outside do.
INSIDE, OUTSIDE = 0, 1


class Key(NamedTuple):
    """An address that is asked.

    :ivar port: 0: every port that the address has no entry of.
    :ivar protocol: IANA number; 0 with port 0.
    """

    address: str
    port: int
    protocol: int
    scope: int = INSIDE


class Target(NamedTuple):
    """Where it leads to."""

    address: str
    port: int
    mac: str
    network_id: str


class Group(NamedTuple):
    """Addresses of a service by which a client gets the same backend.

    :ivar port: the service's own number.
    :ivar local: what is sent to it stays on the node.
    :ivar restricted: only from the service's source ranges.
    """

    protocol: int
    port: int
    local: bool
    restricted: bool = False


class Frontend(NamedTuple):
    """What becomes of what is sent to a key; without targets it is refused.

    :ivar affinity: seconds for which a client keeps its target; 0: none.
    :ivar alive: (address, port) of backends that may keep flows they have.
    :ivar silent: without targets it is dropped, not refused.
    """

    key: Key
    targets: tuple[Target, ...]
    affinity: int
    group: Group
    alive: frozenset[tuple[str, int]]
    silent: bool = False


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ':' in address else 4


def frontends(service: model.Service, node: str,
              zone: str) -> Iterator[Frontend]:
    """Every address of a service, as a node and its pods see it.

    :param zone: the node's zone, '' if it has none.
    """
    for port in service.ports:
        for version, found in _families(service, port):
            alive = _alive(found)
            near = _targets(usable(found, node, zone))
            local = service.internal_local
            inside = _targets(_local(found, node)) if local else near
            for address in service.addresses:
                if family(address) == version:
                    yield Frontend(
                        Key(address, port.port, port.protocol), inside,
                        service.affinity,
                        Group(port.protocol, port.port, local), alive)
            # What a pod sends to an address that is meant for clients
            # outside takes the short way, whatever externalTrafficPolicy is.
            group = Group(port.protocol, port.port, False)
            for key, _ in _external(service, port, version, INSIDE):
                yield Frontend(key, near, service.affinity, group, alive)
    for address in service.addresses:
        yield Frontend(Key(address, 0, 0), (), 0, Group(0, 0, False),
                       frozenset())


def outside(service: model.Service, node: str,
            zone: str) -> Iterator[Frontend]:
    """Every address of a service, as clients outside see it on a node.

    With ``externalTrafficPolicy: Local`` a node without backends is silent:
    a balancer is to ask another one. It refuses if nobody has any.
    """
    local = service.external_local
    for port in service.ports:
        for version, found in _families(service, port):
            alive = _alive(found)
            targets = _targets(_local(found, node) if local
                               else usable(found, node, zone))
            for key, restricted in _external(service, port, version, OUTSIDE):
                yield Frontend(
                    key, targets, service.affinity,
                    Group(port.protocol, port.port, local, restricted),
                    alive, local and bool(found))


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


def _families(service, port):
    """Backends of a port by the families that the service has."""
    for version in sorted({*map(family, service.addresses)}):
        yield version, [backend for backend in port.backends
                        if family(backend.address) == version]


def _external(service, port, version, scope):
    """(key, whether source ranges apply) of what clients outside may ask."""
    # One of another family is not served: a balancer may translate.
    for address in service.external:
        if family(address) == version and address not in service.addresses:
            yield (Key(address, port.port, port.protocol, scope),
                   service.source_ranges is not None)
    if port.node_port:
        yield Key(ANY[version], port.node_port, port.protocol, scope), False


def _local(backends, node):
    return _ready(backend for backend in backends if backend.node == node)


def _alive(backends):
    return frozenset((backend.address, backend.port) for backend in backends)


def _ready(backends):
    found = list(backends)
    return [backend for backend in found if not backend.draining] or found


def _targets(backends):
    return tuple(Target(backend.address, backend.port, backend.mac,
                        backend.network_id) for backend in backends)
