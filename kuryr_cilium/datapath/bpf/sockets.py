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
"""Sockets: whose are led to services' backends, and what ends with them.

A connection by TCP is led when it is made, the node's own and those of its
pods; a pod's datagrams are served on its link. What TCP asked is kept with the
socket, in kc_led.

Datagrams to a service go where the socket's earlier ones went, until that
backend is lost. A connected UDP socket can't be led elsewhere: it is ended,
so that whoever has it connects again.
"""

import collections
import contextlib
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
from kuryr_cilium import exceptions
from kuryr_cilium.linux import netns as linux_netns
from kuryr_cilium.linux import sockdiag

LOG = logging.getLogger(__name__)

SOCKETS = 'kc_sock'
NAMESPACES = 'kc_netns'

_UDP = 17


class Way(enum.IntEnum):
    """enum kc_sock_way: where an entry leads from and to."""

    FROM = 0
    TO = 1


class Whose(enum.IntEnum):
    """enum kc_netns: whose the sockets of a network namespace are."""

    NODE = 1
    POD = 2


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
    """The sockets of this node, and of its pods. Safe for threads.

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
        self._node = linux_netns.cookie()
        # Id of a VIF -> cookie of its pod's network namespace.
        self._pods: dict[str, int] = {}

    def serve(self, cgroup_dir: str) -> None:
        """Lead them, at the node's cgroup.

        :param cgroup_dir: its folder; '' to look for it.
        :raises: exceptions.DatapathError
        """
        with libbpf.closing(cgroups.open_root(cgroup_dir)) as cgroup:
            self._write(self._node, Whose.NODE)
            self._cgroups.attach(cgroup)

    def leave(self) -> None:
        """Leave them to others. Idempotent."""
        self._cgroups.detach()

    def set_pod(self, vif_id: str, netns: str) -> None:
        """Lead connections of a pod's sockets.

        :param netns: path of its network namespace; '': leave them alone.
        :raises: exceptions.DatapathError
        """
        cookie = None
        if netns:
            # Where it is gone there is nobody to lead.
            with contextlib.suppress(exceptions.NetnsGone):
                cookie = linux_netns.run(netns, linux_netns.cookie)
        with self._lock:
            former = self._pods.pop(vif_id, None)
            if cookie is not None:
                self._pods[vif_id] = cookie
                self._write(cookie, Whose.POD)
            if former not in (None, *self._pods.values()):
                self._leave(former)

    def purge(self) -> None:
        """Leave alone what is not of this process."""
        with self._lock:
            known = {self._node, *self._pods.values()}
            for key, _ in list(libbpf.map_items(self._maps.fd(NAMESPACES))):
                cookie, = layout.U64.unpack(key)
                if cookie not in known:
                    self._leave(cookie)

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
                    continue    # TCP's are of an earlier version
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

    def _write(self, cookie, whose):
        try:
            libbpf.map_update(self._maps.fd(NAMESPACES),
                              layout.U64.pack(cookie), layout.U32.pack(whose))
        except OSError as error:
            raise exceptions.DatapathError(
                reason=f'map {NAMESPACES} could not be written: '
                       f'{error.strerror}')

    def _leave(self, cookie):
        libbpf.map_delete(self._maps.fd(NAMESPACES), layout.U64.pack(cookie))

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
