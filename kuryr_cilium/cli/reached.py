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

"""What becomes of a packet to a service: of each backend, by tracing. Pure."""

import dataclasses
import ipaddress
from typing import Any, Callable, Mapping, Optional

from kuryr_cilium.cli import places
from kuryr_cilium.cli import tracing
from kuryr_cilium import exceptions

SERVICE = 'service'

#: The verdict where a service has nobody to answer.
REFUSED = 'refused'

_WITH_PORTS = ('tcp', 'udp', 'sctp')


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """One that may get the packet."""

    address: str
    port: int
    traced: tracing.Traced


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """A path to a service with what is said of it.

    :ivar destination: the service, with the addresses that were asked.
    :ivar packet: as it is sent, before it is led to a backend.
    """

    source: places.Place
    destination: places.Place
    packet: tracing.Packet
    backends: tuple[Backend, ...]

    @property
    def faults(self) -> list[str]:
        """What is wrong."""
        return [fault for backend in self.backends
                for fault in backend.traced.faults]

    @property
    def verdict(self) -> str:
        """That of all backends, tracing.MIXED if they differ."""
        found = {backend.traced.verdict for backend in self.backends}
        if not found:
            return REFUSED
        return found.pop() if len(found) == 1 else tracing.MIXED


class Services:
    """The services of this node.

    :param listed: callable that returns what the agent says of all services.
    :param ask: (address, port, protocol) -> what the agent says of who is
        loaded for an address.
    """

    def __init__(self, listed: Callable[[], list[Mapping[str, Any]]],
                 ask: Callable[[str, int, int], Mapping[str, Any]]):
        self._listed = listed
        self._ask = ask

    def named(self, text: str) -> Optional[places.Place]:
        """The service that ``service/NAMESPACE/NAME`` is; None: it is none.

        :raises: exceptions.PlaceUnknown
        """
        kind, _, name = text.partition('/')
        if kind != SERVICE or '/' not in name:
            return None
        for service in self._listed():
            if name == '%(namespace)s/%(name)s' % service:
                return places.Place(SERVICE, tuple(service['addresses']),
                                    name)
        raise exceptions.PlaceUnknown(
            what='Service ' + name, reason='this node knows of none of that '
            'name that has an address; "kuryr-cilium service list" lists '
            'them')

    def port(self, service: places.Place, protocol: str) -> int:
        """The only port that a service has of a protocol.

        :raises: exceptions.TraceInvalid if there is not just one.
        """
        found = next(other for other in self._listed() if service.name ==
                     '%(namespace)s/%(name)s' % other)
        numbers = sorted(port['port'] for port in found['ports']
                         if port['protocol'].lower() == protocol)
        if len(numbers) == 1:
            return numbers[0]
        raise exceptions.TraceInvalid(reason='service %s has %s: %s' % (
            service.name, 'the %s ports %s' % (protocol, ', '.join(
                map(str, numbers))) if numbers else 'no port of ' + protocol,
            'give --port' if numbers else 'give another --protocol'))

    def trace(self, source: places.Place, destination: places.Place,
              packet: tracing.Packet,
              find: Callable[[str], places.Place],
              trace: Callable[..., tracing.Traced]) -> Optional[Reached]:
        """Judge the first packet to a service; None: it goes to none.

        :param find: callable that returns the place of an address.
        :param trace: (source, destination, packet) -> Traced.
        """
        if packet.protocol not in _WITH_PORTS:
            return None
        names, addresses, backends = set(), [], {}
        for version in packet.versions:
            if not source.of_version(version):
                continue
            for address in destination.of_version(version):
                answer = self._ask(address, packet.port, packet.number)
                if answer['service'] is None:
                    continue
                names.add(answer['service'])
                addresses.append(address)
                for backend in answer['backends']:
                    backends[backend['address'], backend['port']] = None
        if not addresses:
            return None
        if destination.kind != SERVICE:
            destination = places.Place(SERVICE, tuple(addresses), ', '.join(
                sorted(filter(None, names))))
        return Reached(source, destination, packet, tuple(
            Backend(address, port, trace(source, find(address),
                                         tracing.Packet(packet.protocol,
                                                        port)))
            for address, port in sorted(backends, key=_order)))


def address_and_port(text: str) -> tuple[str, Optional[int]]:
    """``ADDRESS:PORT`` (``[ADDRESS]:PORT``) in two; the rest as it is."""
    address, _, port = text.rpartition(':')
    bracketed = address.startswith('[') and address.endswith(']')
    if bracketed:
        address = address[1:-1]
    try:
        version = ipaddress.ip_address(address).version
        number = int(port)
    except ValueError:
        return text, None
    if (version == 6) != bracketed or not 0 < number <= 65535:
        return text, None
    return address, number


def _order(backend):
    address, port = backend
    found = ipaddress.ip_address(address)
    return found.version, int(found), port
