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

"""Connections: what has expired goes, and is counted anew.

The programs judge by the same times (kc_conn.h): an entry that is past them
is no connection any more, wherever it still lies.
"""

import collections
import struct
import time
from typing import Callable, NamedTuple, Optional

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_

_SECOND = 10 ** 9

TCP = 86400 * _SECOND
#: Instead of TCP when the map is more than BUSY full.
TCP_BUSY = 7200 * _SECOND
BUSY = 0.75
TCP_OPENING = 60 * _SECOND
TCP_CLOSING = 10 * _SECOND
OTHER = 180 * _SECOND
OTHER_NEW = 30 * _SECOND
TOMBSTONE = 120 * _SECOND

_WITH_STATE = (6, 132)
_KEY = struct.Struct('=IB')
_LAST = layout.U64
_FLAGS = struct.Struct('=H')
_FLAGS_AT = 40
_NAT_PORT = struct.Struct('>H')
_NAT_PORT_AT = 46
_UDP = 17


class Swept(NamedTuple):
    """What a sweep did.

    :ivar live: connections that were left.
    :ivar removed: entries that were deleted.
    """

    live: int
    removed: int


def lifetime(protocol: int, flags: int, busy: bool) -> int:
    """After how many idle nanoseconds an entry has expired."""
    if flags & layout.CtFlag.TOMBSTONE:
        return TOMBSTONE
    if flags & layout.CtFlag.HAIRPIN:
        return TCP
    if protocol in _WITH_STATE:
        if flags & layout.CtFlag.CLOSING:
            return TCP_CLOSING
        if not flags & layout.CtFlag.REPLIED:
            return TCP_OPENING
        return TCP_BUSY if busy else TCP
    return OTHER if flags & layout.CtFlag.REPLIED else OTHER_NEW


def sweep(maps: maps_.Maps, alive: Callable[[int], bool],
          busy: bool = False,
          lost: Optional[Callable[[str, int, int, tuple[str, int]], bool]]
          = None) -> Swept:
    """Delete expired entries and those of endpoints that are gone.

    The count of connections by endpoint, which the quota is held against,
    is written anew; what a program counts meanwhile may be lost until the
    next sweep.

    :param alive: whether an endpoint number is in use.
    :param busy: the last sweep left more than a share of BUSY.
    :param lost: tells by the address, port and protocol of a service
        whether it has lost a backend: UDP flows to that end, and begin anew
        elsewhere. None: no service has.
    """
    counts: collections.Counter[int] = collections.Counter()
    removed = 0

    def is_over(key, value):
        endpoint, protocol = _KEY.unpack_from(key)
        idle = time.monotonic_ns() - _LAST.unpack_from(value)[0]
        flags = _flags(value)
        if not alive(endpoint):
            return True
        if flags & layout.CtFlag.OPEN:
            return idle > TCP_OPENING
        if flags & layout.CtFlag.ALIAS:
            return idle > OTHER_NEW and _astray(maps, key, value)
        if lost and protocol == _UDP and _is_lost(key, value, lost):
            return True
        return idle > lifetime(protocol, flags, busy)

    for table in (maps_.HALF_OPEN, maps_.CONNECTIONS):
        fd = maps.fd(table)
        for keys, values in batches(fd):
            over = []
            for key, value in zip(keys, values):
                if is_over(key, value):
                    over.append(key)
                elif table == maps_.CONNECTIONS:
                    counts[_KEY.unpack_from(key)[0]] += 1
            removed += sum(delete_if(fd, key, is_over) for key in over)
    removed += _sweep_fragments(maps, alive)
    _write_counts(maps, counts)
    return Swept(counts.total(), removed)


def _flags(value):
    return _FLAGS.unpack_from(value, _FLAGS_AT)[0]


def _astray(maps, key, value):
    """Whether the connection that an alias leads to is gone."""
    if _flags(value) & layout.CtFlag.HAIRPIN:
        return False    # they are few, and recycled
    alias, entry = layout.CtKey.unpack(key), layout.Ct.unpack(value)
    main = alias._replace(rport=entry.nat_port, raddr=entry.nat).pack()
    return not any(
        found and not _flags(found) & layout.CtFlag.OPEN for found in (
            libbpf.map_lookup(maps.fd(table), main) for table in (
                maps_.CONNECTIONS, maps_.HALF_OPEN)))


def _is_lost(key, value, lost):
    """Whether a flow goes to a backend that its service has lost."""
    if not _NAT_PORT.unpack_from(value, _NAT_PORT_AT)[0]:
        return False
    flow, entry = layout.CtKey.unpack(key), layout.Ct.unpack(value)
    # NOTE: a pod that reaches itself has no address of its own in there.
    return not entry.flags & layout.CtFlag.HAIRPIN and lost(
        entry.nat, entry.nat_port, flow.protocol, (flow.raddr, flow.rport))


def _sweep_fragments(maps, alive):
    fd = maps.fd(maps_.FRAGMENTS)
    return sum(_delete(fd, [key for key in keys if (
        number := layout.U32.unpack_from(key)[0]
    ) < layout.FRAGMENTS_OUTSIDE and not alive(number)])
        for keys, _ in batches(fd))


def _write_counts(maps, counts):
    fd = maps.fd(maps_.CONNECTION_COUNT)
    gone = [key for key, _ in libbpf.map_items(fd)
            if layout.U32.unpack(key)[0] not in counts]
    _delete(fd, gone)
    libbpf.map_update_batch(
        fd, b''.join(map(layout.U32.pack, counts)),
        b''.join(map(layout.U64.pack, counts.values())), len(counts))


def batches(fd):
    """The rows of a hash map, as (keys, values) many at a time."""
    # NOTE: the cookie is the number of a hash bucket, so deleting what was
    # read does not disturb the way on.
    cookie = None
    while True:
        keys, values, cookie = libbpf.map_lookup_batch(fd, cookie)
        yield keys, values
        if cookie is None:
            return


def delete_if(fd, key, is_over):
    """Delete a row that still is over; whether it was deleted.

    :param is_over: called with the key and the value.
    """
    # NOTE: its ports may have been used again since it was read. What remains
    # is the moment between these calls.
    value = libbpf.map_lookup(fd, key)
    return value is not None and is_over(key, value) and libbpf.map_delete(
        fd, key)


def _delete(fd, keys):
    return libbpf.map_delete_batch(fd, b''.join(keys), len(keys))
