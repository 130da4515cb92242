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


class Frontend(NamedTuple):
    """What becomes of what is sent to a key; without targets it is refused.

    :ivar affinity: seconds for which a client keeps its target; 0: none.
    """

    key: Key
    targets: tuple[Target, ...]
    affinity: int


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ':' in address else 4


def frontends(service: model.Service, node: str,
              zone: str) -> Iterator[Frontend]:
    """Every address of a service, as pods of a node see it.

    :param zone: the node's zone, '' if it has none.
    """
    for port in service.ports:
        by_family = {version: usable(
            (backend for backend in port.backends
             if family(backend.address) == version), node, zone)
            for version in (4, 6)}
        inside = by_family
        if service.internal_local:
            inside = {version: usable(
                (backend for backend in port.backends
                 if family(backend.address) == version
                 and backend.node == node), node, zone)
                for version in (4, 6)}
        for address in service.addresses:
            yield _frontend(service, port, address, port.port, inside)
        # What a pod sends to an address that is meant for clients outside
        # takes the short way, whatever externalTrafficPolicy is.
        for address in service.external:
            yield _frontend(service, port, address, port.port, by_family)
        if port.node_port:
            for version in sorted({*map(family, service.addresses)}):
                yield _frontend(service, port, ANY[version], port.node_port,
                                by_family)
    for address in service.addresses:
        yield Frontend(Key(address, 0, 0), (), 0)


def usable(backends: Iterable[model.Backend], node: str,
           zone: str) -> tuple[model.Backend, ...]:
    """Those of some backends that may be asked.

    The ready ones, else those that drain. Hints narrow them if each of them
    has hints and one of them is meant for this node (or zone).
    """
    found = list(backends)
    found = [backend for backend in found if not backend.draining] or found
    for hints, here in (('nodes', node), ('zones', zone)):
        if all(getattr(backend, hints) for backend in found):
            meant = [backend for backend in found
                     if here in getattr(backend, hints)]
            if meant:
                return tuple(meant)
    return tuple(found)


def _frontend(service, port, address, number, by_family):
    return Frontend(
        Key(address, number, port.protocol),
        tuple(Target(backend.address, backend.port, backend.mac,
                     backend.network_id)
              for backend in by_family[family(address)]),
        service.affinity)
