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
"""A node without pods: what its own sockets reach."""

import contextlib
import itertools
import os
import select
import socket
import tempfile
import threading

import fixtures

from kuryr_cilium.datapath.bpf import driver as bpf
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import sockets
from kuryr_cilium.lb import model
from tests.functional.datapath import scene

_names = itertools.count()

VIP = {4: '10.96.0.7', 6: 'fd96::7'}
SECOND = {4: '10.96.0.8', 6: 'fd96::8'}
NODE = {4: '192.0.2.1', 6: 'fd51::1'}
#: Addresses of backends, all on the node.
BACKENDS = [{4: '10.9.0.%d' % n, 6: 'fd09::%d' % n} for n in (1, 2)]
PORT, BACKEND_PORT, NODE_PORT = 80, 8080, 30080
TCP, UDP = 6, 17


class Host(fixtures.Fixture):
    """A node's network namespace, and its pins.

    :ivar backends: places to serve at.
    """

    def _setUp(self):
        name = 'kch%d-%d' % (os.getpid(), next(_names))
        scene.run('ip', 'netns', 'add', name)
        self.addCleanup(scene.run, 'ip', 'netns', 'del', name)
        self.name = name
        self.ip('link', 'set', 'lo', 'up')
        for found in (NODE, *BACKENDS):
            self.add_address(found)
        self.place = scene.Place(name, (NODE[4], NODE[6]))
        self.backends = [scene.Place(name, (found[4], found[6]))
                         for found in BACKENDS]
        self.bpffs = tempfile.mkdtemp(prefix='kch-bpffs-')
        self.addCleanup(os.rmdir, self.bpffs)
        scene.run('mount', '-t', 'bpf', 'kch', self.bpffs)
        self.addCleanup(scene.run, 'umount', self.bpffs)
        self.conf = scene.make_conf(
            os.path.join(self.bpffs, 'kc'), scene.objects().name)

    def ip(self, *arguments):
        scene.run('ip', '-n', self.name, *arguments)

    def add_address(self, found):
        """Give an address of each family to lo."""
        self.ip('addr', 'add', found[4] + '/32', 'dev', 'lo')
        self.ip('addr', 'add', found[6] + '/128', 'dev', 'lo', 'nodad')

    def driver(self):
        """A started driver, as the agent of the node has one."""
        made = bpf.BPFDriver(self.conf)
        self.addCleanup(made.stop)
        self.place.run(made.start, (NODE[4], NODE[6]))
        return made

    def set_option(self, name, value):
        """Set an option of services for the rest of the test."""
        # NOTE: all ConfigOpts of a process share what is overridden.
        self.conf.set_override(name, value, 'services')
        self.addCleanup(self.conf.clear_override, name, 'services')

    def socket(self, family, kind, protocol=0):
        return self.place.run(
            socket.socket,
            socket.AF_INET if family == 4 else socket.AF_INET6, kind,
            protocol)

    def pinned(self):
        """Names of the programs that are pinned at the cgroup."""
        folder = os.path.join(self.bpffs, 'kc', 'sockets')
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()


def led(fd, sock):
    """What a TCP socket asked and was led to (struct kc_led); None: nothing.

    :param fd: of kc_led; the key of a socket is its number here.
    """
    found = libbpf.map_lookup(fd, layout.U32.pack(sock.fileno()))
    return found and tuple(tuple(sockets.Name.unpack(part)) for part in (
        found[:sockets.Name.SIZE], found[sockets.Name.SIZE:]))


class Servers(threading.Thread):
    """Answer at places, TCP and UDP, both families: which place it is."""

    def __init__(self, *places):
        super().__init__(name='servers', daemon=True)
        self._done = threading.Event()
        self._names = {}
        self._listeners = set()
        for number, place in enumerate(places):
            for family, kind in itertools.product((4, 6), (
                    socket.SOCK_STREAM, socket.SOCK_DGRAM)):
                sock = place.socket(family, kind, BACKEND_PORT)
                self._names[sock] = b'%d' % number
                if kind == socket.SOCK_STREAM:
                    sock.listen(128)
                    self._listeners.add(sock)
        self.start()

    def run(self):
        while not self._done.is_set():
            for ready in select.select(list(self._names), [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self._answer(ready)

    def _answer(self, ready):
        name = self._names[ready]
        if ready in self._listeners:
            self._names[ready.accept()[0]] = name
        elif ready.type == socket.SOCK_DGRAM:
            ready.sendto(name, ready.recvfrom(100)[1])
        elif ready.recv(100):
            ready.sendall(name)
        else:
            del self._names[ready]
            ready.close()

    def stop(self):
        self._done.set()
        self.join()
        for sock in self._names:
            sock.close()


def service(*backends, name='web', addresses=VIP, node_port=0, port=PORT,
            **more):
    """A service of both families and protocols.

    :param backends: addresses, by family.
    """
    targets = tuple(model.Backend(found[family], BACKEND_PORT)
                    for found in backends for family in (4, 6))
    return model.Service(
        'ns', name, '', (addresses[4], addresses[6]), ports=tuple(
            model.Port('', protocol, port, node_port, targets)
            for protocol in (TCP, UDP)), **more)


def serve(driver, *services):
    """Bring services in force."""
    refused = driver.serve({item.id: item for item in services},
                           model.Node('node'), frozenset(NODE.values()))
    if refused:
        raise AssertionError(refused)
