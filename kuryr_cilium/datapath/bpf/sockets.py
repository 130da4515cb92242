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
"""The node's own sockets: what they asked of services, and what ends with it.

Datagrams to a service go where the socket's earlier ones went, until that
backend is lost. A connected UDP socket can't be led elsewhere: it is ended,
so that whoever has it connects again.
"""

import collections
import enum
import errno
import struct
import threading
from typing import Callable, Mapping, NamedTuple

from oslo_log import log as logging

from kuryr_cilium.datapath.bpf import cgroups
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.linux import sockdiag

LOG = logging.getLogger(__name__)

SOCKETS = 'kc_sock'

_UDP = 17


class Way(enum.IntEnum):
    """enum kc_sock_way: where an entry leads from and to."""

    FROM = 0
    TO = 1


class Key(NamedTuple):
    """struct kc_sock_key.

    :ivar cookie: of the socket (SO_COOKIE).
    """

    cookie: int
    address: str
    port: int
    protocol: int
    way: int

    SIZE = 32

    def pack(self):
        return (layout.U64.pack(self.cookie) + layout.addr16(self.address)
                + struct.pack('>HBB4x', *self[2:]))

    @classmethod
    def unpack(cls, data):
        return cls(layout.U64.unpack_from(data)[0],
                   layout.addr_text(data[8:24]),
                   *struct.unpack_from('>HBB', data, 24))


class Name(NamedTuple):
    """struct kc_sock."""

    address: str
    port: int

    SIZE = 24

    def pack(self):
        return layout.addr16(self.address) + struct.pack('>H6x', self.port)

    @classmethod
    def unpack(cls, data):
        return cls(layout.addr_text(data[:16]),
                   *struct.unpack_from('>H', data, 16))


class Sockets:
    """The sockets of the network namespace that it was made in.

    :param folder: in a BPF file system, for the links.
    :param programs: file descriptors by name.
    """

    def __init__(self, maps: maps_.Maps, folder: str,
                 programs: Mapping[str, int]):
        self._maps = maps
        self._cgroups = cgroups.Cgroups(folder, programs)
        self._diag = sockdiag.SockDiag()
        self._lock = threading.Lock()
        self._told = False

    def serve(self, cgroup_dir: str) -> None:
        """Serve them at the node's cgroup.

        :param cgroup_dir: its folder; '' to look for it.
        :raises: exceptions.DatapathError
        """
        with libbpf.closing(cgroups.open_root(cgroup_dir)) as cgroup:
            self._maps.set_meta(layout.Meta.HOST_NETNS,
                                cgroups.netns_cookie())
            self._cgroups.attach(cgroup)

    def leave(self) -> None:
        """Leave them to others. Idempotent."""
        self._maps.set_meta(layout.Meta.HOST_NETNS, 0)
        self._cgroups.detach()

    def close(self) -> None:
        self._diag.close()

    def sweep(self, lost: Callable[[str, int, int, tuple[str, int]], bool]
              ) -> None:
        """Let UDP flows to lost backends begin anew.

        :param lost: as conntrack.sweep() has it.
        """
        with self._lock:
            fd = self._maps.fd(SOCKETS)
            ended = collections.defaultdict(set)
            gone = []
            for data, value in libbpf.map_items(fd):
                key, name = Key.unpack(data), tuple(Name.unpack(value))
                if key.protocol != _UDP:
                    continue
                at = key.address, key.port
                if key.way == Way.TO:
                    if lost(*at, _UDP, name):
                        gone.append(data)
                elif lost(*name, _UDP, at):
                    # NOTE: the entry stays: late answers are the service's.
                    ended[key.cookie].add(at)
            libbpf.map_delete_batch(fd, b''.join(gone), len(gone))
            if ended:
                self._end(ended)

    def _end(self, ended):
        """End sockets that are connected to what is named: cookie -> names."""
        try:
            for found in list(self._diag.connected_udp()):
                if found.peer in ended.get(found.cookie, ()):
                    self._destroy(found)
        except OSError as error:
            # The kernel has no such requests.
            if not self._told:
                LOG.debug('UDP sockets that are connected to lost backends '
                          'stay as they are: %s', error.strerror)
            self._told = True

    def _destroy(self, found):
        try:
            self._diag.destroy(found)
        except OSError as error:
            # It was closed meanwhile.
            if error.errno != errno.ENOENT:
                raise
