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

"""The maps as tables: rows go in and come out, many at a time."""

import collections
import itertools
import operator
import struct
from typing import Callable, Iterable, Iterator, NamedTuple

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium import exceptions
from kuryr_cilium.policy import compile as compiler

META = 'kc_meta'
INTERFACE = 'kc_if'
CONNECTIONS = 'kc_ct'
HALF_OPEN = 'kc_ct_new'
CONNECTION_COUNT = 'kc_ct_count'
FRAGMENTS = 'kc_frag'
DROPS = 'kc_drops'
EVENTS = 'kc_events'

#: Tables whose rows a planner owns.
PLANNED = (rows.LOCAL, rows.ENDPOINT, rows.ADDR, rows.CIDR, rows.PEER,
           rows.PORT, rows.GROUP)

_S64 = struct.Struct('=q')
_BATCH = 8192
_key = operator.attrgetter('key')
_value = operator.attrgetter('value')
_VERDICTS = {'allow': layout.Verdict.ALLOW, 'deny': layout.Verdict.DENY,
             'pass': layout.Verdict.PASS}


class Codec(NamedTuple):
    """How rows of a table become bytes."""

    pack_key: Callable[[tuple | int], bytes]
    unpack_key: Callable[[bytes], tuple | int]
    pack: Callable[[tuple | int], bytes]


class Maps:
    """The maps of one datapath.

    :param fds: file descriptors by name, with the layout's version.
    """

    def __init__(self, fds):
        self._fds = fds

    def fd(self, table: str) -> int:
        """The file descriptor of a table.

        :raises: exceptions.DatapathError after close().
        """
        if not self._fds:
            raise exceptions.DatapathError(reason='its driver was stopped')
        return self._fds['%s_v%d' % (table, layout.VERSION)]

    def close(self) -> None:
        """Refuse further use: the numbers may be those of other files."""
        self._fds = {}

    def write(self, writes: Iterable[rows.Write]) -> None:
        """Carry writes out; what stands together is written together.

        :raises: exceptions.DatapathError; some may have been done.
        """
        for (table, deletes), group in itertools.groupby(writes, _kind):
            codec = _CODECS[table]
            while part := tuple(itertools.islice(group, _BATCH)):
                keys = b''.join(map(codec.pack_key, map(_key, part)))
                try:
                    if deletes:
                        libbpf.map_delete_batch(self.fd(table), keys,
                                                len(part))
                    else:
                        values = b''.join(map(codec.pack,
                                              map(_value, part)))
                        libbpf.map_update_batch(self.fd(table), keys, values,
                                                len(part))
                except OSError as error:
                    raise exceptions.DatapathError(
                        reason=f'{len(part)} rows could not be written to '
                               f'map {table}: {error.strerror}')

    def keys(self, table: str) -> Iterator[tuple | int]:
        """The keys of a table; rows written meanwhile may be left out."""
        unpack = _CODECS[table].unpack_key
        for key, _ in libbpf.map_items(self.fd(table)):
            yield unpack(key)

    def endpoint(self, number: int) -> layout.Endpoint | None:
        """A row of kc_endpoint as it is in the kernel."""
        value = libbpf.map_lookup(self.fd(rows.ENDPOINT),
                                  layout.U32.pack(number))
        return None if value is None else layout.Endpoint.unpack(value)

    def address(self, space: int, address: str) -> layout.Peer | None:
        """A row of kc_addr as it is in the kernel."""
        return self._get(rows.ADDR, layout.AddrKey(space, address),
                         layout.Peer)

    def longest(self, space: int, address: str) -> layout.Peer | None:
        """What kc_cidr says of an address."""
        return self._get(rows.CIDR, layout.CidrKey(space, address),
                         layout.Peer)

    def prefixes(self, space: int) -> Iterator[str]:
        """The prefixes of kc_cidr in a space."""
        for key in self.keys(rows.CIDR):
            if key.space == space:
                yield key.network

    def peers(self, ruleset: int, class_: int,
              page: int) -> layout.Bits | None:
        """A row of kc_rs_peer as it is in the kernel."""
        return self._get(rows.PEER, layout.RsPeerKey(ruleset, class_, page),
                         layout.Bits)

    def ports(self, ruleset: int, page: int, protocol: int,
              port: int | None) -> layout.Bits | None:
        """What kc_rs_port says of a protocol and a port."""
        length = layout.PORT_PROTOCOL
        if port is not None:
            length += compiler.PORT_BITS
        return self._get(rows.PORT, layout.RsPortKey(
            length, ruleset, page, protocol, port or 0), layout.Bits)

    def group(self, ruleset: int, bit: int) -> layout.RsGroup | None:
        """A row of kc_rs_group as it is in the kernel."""
        return self._get(rows.GROUP, layout.RsGroupKey(ruleset, bit),
                         layout.RsGroup)

    def counts(self, table: str) -> collections.Counter[int]:
        """How many rows of a table each ruleset has, by its number."""
        return collections.Counter(key.ruleset for key in self.keys(table))

    def _get(self, table, key, row):
        value = libbpf.map_lookup(self.fd(table), key.pack())
        return None if value is None else row.unpack(value)

    def interfaces(self) -> dict[int, int]:
        """Endpoint number by ifindex."""
        return {layout.U32.unpack(key)[0]: layout.U32.unpack(value)[0]
                for key, value in libbpf.map_items(self.fd(INTERFACE))}

    def connections(self) -> dict[int, int]:
        """Open connections by endpoint number; none: it is not there."""
        # NOTE: what a program counts while a sweep counts anew may be lost,
        # and its end takes the number below 0 until the next sweep.
        return {layout.U32.unpack(key)[0]: max(0, _S64.unpack(value)[0])
                for key, value in libbpf.map_items(self.fd(CONNECTION_COUNT))}

    def meta(self, index: layout.Meta) -> int:
        value = libbpf.map_lookup(self.fd(META), layout.U32.pack(index))
        return layout.U64.unpack(value)[0]

    def set_meta(self, index: layout.Meta, value: int) -> None:
        libbpf.map_update(self.fd(META), layout.U32.pack(index),
                          layout.U64.pack(value))

    def drops(self) -> dict[layout.Reason, int]:
        """Dropped packets of all CPUs."""
        counted = {}
        for reason in layout.Reason:
            if reason is layout.Reason.ALLOWED:
                continue
            value = libbpf.map_lookup(self.fd(DROPS),
                                      layout.U32.pack(reason))
            counted[reason] = sum(
                map(operator.itemgetter(0), layout.U64.iter_unpack(value)))
        return counted


def _kind(write):
    return write.table, write.value is None


def _pack_port_key(key):
    protocol, port, length = key.port
    if protocol is None:
        total, protocol = layout.PORT_ANY, 0
    else:
        total = layout.PORT_PROTOCOL + length
    return layout.RsPortKey(total, key.ruleset, key.page, protocol,
                            port).pack()


def _unpack_port_key(data):
    key = layout.RsPortKey.unpack(data)
    port = compiler.ANY_PORT if key.length == layout.PORT_ANY else \
        compiler.PortKey(key.protocol, key.port,
                         key.length - layout.PORT_PROTOCOL)
    return rows.PortKey(key.ruleset, key.page, port)


def _pack_bits(row):
    return layout.Bits.FORMAT.pack(*row.words, row.mask)


def _pack_endpoint(row):
    flags = layout.EndpointFlag.FASTPATH if row.fastpath else 0
    return layout.Endpoint(
        row.space4, row.space6, row.ingress, row.egress, row.kc, row.kq,
        row.network, flags, row.mac, row.gateway_macs[:layout.GATEWAYS],
        row.addresses).pack()


def _pack_group(row):
    # NOTE: an event tells ruleset and bit, so the agent needs no rule id.
    return layout.RsGroup(_VERDICTS[row.verdict], 0, row.next_tier,
                          row.l7set, 0).pack()


def _pack_u32(number):
    return layout.U32.pack(number)


def _unpack_u32(data):
    return layout.U32.unpack(data)[0]


def _pack_address_key(key):
    return layout.U32.pack(key.space) + layout.addr16(key.address)


def _unpack_address_key(data):
    return rows.AddrKey(*layout.AddrKey.unpack(data))


def _pack_peer(row):
    return layout.Peer.FORMAT.pack(*row)


_CODECS = {
    rows.ADDR: Codec(_pack_address_key, _unpack_address_key, _pack_peer),
    rows.CIDR: Codec(
        lambda key: layout.CidrKey(*key).pack(),
        lambda data: rows.CidrKey(*layout.CidrKey.unpack(data)), _pack_peer),
    rows.LOCAL: Codec(
        _pack_address_key, _unpack_address_key,
        lambda row: layout.Local(row.endpoint, row.kc, row.mac).pack()),
    rows.PEER: Codec(
        lambda key: layout.RsPeerKey.FORMAT.pack(*key),
        lambda data: rows.PeerKey(*layout.RsPeerKey.unpack(data)),
        _pack_bits),
    rows.PORT: Codec(_pack_port_key, _unpack_port_key, _pack_bits),
    rows.GROUP: Codec(
        lambda key: layout.RsGroupKey(*key).pack(),
        lambda data: rows.GroupKey(*layout.RsGroupKey.unpack(data)),
        _pack_group),
    rows.ENDPOINT: Codec(_pack_u32, _unpack_u32, _pack_endpoint),
    INTERFACE: Codec(_pack_u32, _unpack_u32, _pack_u32),
}
