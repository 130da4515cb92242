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

"""What the programs of the uplinks go by: addresses, ports, open flows."""

import enum
import struct
import threading
import time
from typing import Callable, Iterable, NamedTuple, Optional

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium import exceptions

HERE = 'kc_here'
EXIT = 'kc_exit'
FLOWS = ('kc_out', 'kc_out_new')

_UDP = 17
_WITH_STATE = (6, 132)
_FLAGS = struct.Struct('=H')
_FLAGS_AT = 26
_PROTOCOL_AT = 1
_FAMILIES = (4, 6)


class Here(enum.IntEnum):
    """enum kc_here: what an address is on this node."""

    NODE = 1
    POD = 2


class Kind(enum.IntEnum):
    """enum kc_out_kind: what is replaced."""

    TO = 0
    FROM = 1


class Flag(enum.IntFlag):
    """enum kc_out_flag."""

    FLOW = 1
    ANSWER = 2
    REPLIED = 4
    CLOSING = 8
    FIN_CLIENT = 16
    FIN_BACKEND = 32
    OPEN = 64


class Exit(NamedTuple):
    """struct kc_exit.

    :ivar address: '::' if the node has none of the family.
    """

    address: str
    first: int
    last: int

    SIZE = 24

    def pack(self):
        return layout.addr16(self.address) + struct.pack('=HH4x', *self[1:])

    @classmethod
    def unpack(cls, data):
        return cls(layout.addr_text(data[:16]),
                   *struct.unpack_from('=HH', data, 16))


class Key(NamedTuple):
    """struct kc_out_key."""

    kind: int
    protocol: int
    source_port: int
    destination_port: int
    source: str
    destination: str

    SIZE = 40

    def pack(self):
        return (struct.pack('=BB', *self[:2])
                + struct.pack('>HHH', *self[2:4], 0)
                + layout.addr16(self.source)
                + layout.addr16(self.destination))

    @classmethod
    def unpack(cls, data):
        return cls(*struct.unpack_from('=BB', data),
                   *struct.unpack_from('>HH', data, 2),
                   layout.addr_text(data[8:24]), layout.addr_text(data[24:40]))


class Entry(NamedTuple):
    """struct kc_out.

    :ivar other: of a flow: what the backend knows the client by, '::' if by
        its own address. Else the service.
    """

    last: int
    address: str
    port: int
    flags: int
    service: int
    other: str = '::'
    other_port: int = 0

    SIZE = 56

    def pack(self):
        return (layout.U64.pack(self.last) + layout.addr16(self.address)
                + struct.pack('>H', self.port)
                + struct.pack('=HI', self.flags, self.service)
                + layout.addr16(self.other)
                + struct.pack('>H6x', self.other_port))

    @classmethod
    def unpack(cls, data):
        return cls(layout.U64.unpack_from(data)[0],
                   layout.addr_text(data[8:24]),
                   struct.unpack_from('>H', data, 24)[0],
                   *struct.unpack_from('=HI', data, 26),
                   layout.addr_text(data[32:48]),
                   struct.unpack_from('>H', data, 48)[0])


class Addresses:
    """What is on this node, and by what it sends elsewhere.

    Safe for threads. What an earlier process has left counts until the
    first :meth:`purge`.
    """

    def __init__(self, maps: maps_.Maps):
        self._maps = maps
        self._lock = threading.Lock()
        self._nodes: frozenset[str] = frozenset()
        self._pods: dict[str, frozenset[str]] = {}

    def set_nodes(self, addresses: Iterable[str]) -> None:
        """Set the node's own addresses."""
        with self._lock:
            before, self._nodes = self._nodes, frozenset(addresses)
            self._bring(before | self._nodes)

    def set_pod(self, name: str, addresses: Iterable[str]) -> None:
        """Set the addresses of a pod of this node; none: it has gone."""
        with self._lock:
            before = self._pods.pop(name, frozenset())
            now = frozenset(addresses)
            if now:
                self._pods[name] = now
            self._bring(before | now)

    def set_exit(self, addresses: Iterable[str],
                 ports: tuple[int, int]) -> None:
        """Set by what the node sends to backends elsewhere.

        :param addresses: the first one of a family counts.
        :param ports: the first and the last.
        """
        found: dict[int, str] = {}
        for address in addresses:
            found.setdefault(6 if ':' in address else 4, address)
        for index, version in enumerate(_FAMILIES):
            libbpf.map_update(
                self._maps.fd(EXIT), layout.U32.pack(index),
                Exit(found.get(version, '::'), *ports).pack())

    def purge(self) -> None:
        """Delete what is not of this process."""
        with self._lock:
            known = set(map(layout.addr16, self._all()))
            fd = self._maps.fd(HERE)
            for key, _ in list(libbpf.map_items(fd)):
                if bytes(key) not in known:
                    libbpf.map_delete(fd, key)

    def _all(self):
        return self._nodes.union(*self._pods.values())

    def _bring(self, addresses):
        fd = self._maps.fd(HERE)
        pods = frozenset().union(*self._pods.values())
        try:
            for address in addresses:
                key = layout.addr16(address)
                if address in self._nodes:
                    libbpf.map_update(fd, key,
                                      layout.U32.pack(Here.NODE))
                elif address in pods:
                    libbpf.map_update(fd, key,
                                      layout.U32.pack(Here.POD))
                else:
                    libbpf.map_delete(fd, key)
        except OSError as error:
            raise exceptions.DatapathError(
                reason=f'map {HERE} could not be written: {error.strerror}')


def lifetime(protocol: int, flags: int) -> int:
    """After how many idle nanoseconds a flow has expired (kc_out.h)."""
    is_open = flags & Flag.OPEN
    if flags & Flag.CLOSING:
        return conntrack.TCP_CLOSING
    if protocol in _WITH_STATE:
        return conntrack.TCP if is_open else conntrack.TCP_OPENING
    return conntrack.OTHER if is_open else conntrack.OTHER_NEW


def sweep(maps: maps_.Maps, lost: Optional[Callable[
        [str, int, int, tuple[str, int]], bool]] = None) -> int:
    """Delete flows that have expired or lost their backend, and their ways.

    :param lost: see conntrack.sweep().
    :returns: how many entries were deleted.
    """
    flows, ways, removed = {}, [], 0

    def is_over(key, value):
        protocol, flags = key[_PROTOCOL_AT], _flags(value)
        return bool(flags & Flag.FLOW) and (
            _idle(value) > lifetime(protocol, flags) or bool(lost)
            and protocol == _UDP and _is_lost(key, value, lost))

    def is_astray(key, value):
        # NOTE: the flow of a younger one may be missing in flows.
        return (not _flags(value) & Flag.FLOW
                and _idle(value) > conntrack.TCP_OPENING
                and not _leads(flows, Key.unpack(key), Entry.unpack(value)))

    for table in FLOWS:
        fd = maps.fd(table)
        for keys, values in conntrack.batches(fd):
            for key, value in zip(keys, values):
                if not _flags(value) & Flag.FLOW:
                    ways.append((fd, bytes(key)))
                elif is_over(key, value):
                    removed += conntrack.delete_if(fd, key, is_over)
                else:
                    flows[bytes(key)] = bytes(value)
    return removed + sum(conntrack.delete_if(fd, key, is_astray)
                         for fd, key in ways)


def _flags(value):
    return _FLAGS.unpack_from(value, _FLAGS_AT)[0]


def _idle(value):
    return time.monotonic_ns() - layout.U64.unpack_from(value)[0]


def _is_lost(key, value, lost):
    flow, entry = Key.unpack(key), Entry.unpack(value)
    return lost(flow.destination, flow.destination_port, flow.protocol,
                (entry.address, entry.port))


def _leads(flows, way, entry):
    """Whether a way is one of a flow that is open."""
    answer = entry.flags & Flag.ANSWER
    if way.kind == Kind.TO:
        client = entry.address, entry.port
    elif answer:
        client = way.destination, way.destination_port
    else:
        client = way.source, way.source_port
    backend = (way.source, way.source_port) if answer else (
        way.destination, way.destination_port)
    flow = flows.get(Key(
        Kind.TO, way.protocol, client[1], entry.other_port,
        client[0], entry.other).pack())
    if flow is None:
        return False
    found = Entry.unpack(flow)
    return (found.address, found.port) == backend
