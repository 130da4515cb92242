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
"""Listing and ending UDP sockets of a real kernel."""

import errno
import os
import socket
import subprocess
import uuid

from kuryr_cilium.linux import netns
from kuryr_cilium.linux import sockdiag
from tests import base

_SO_COOKIE = 57
FAMILIES = {socket.AF_INET: '127.0.0.1', socket.AF_INET6: '::1'}


class SockDiagTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        name = 'kct-' + uuid.uuid4().hex[:8]
        self.path = os.path.join('/run/netns', name)
        for action in ('add', 'del'):
            command = ['ip', 'netns', action, name]
            if action == 'del':
                self.addCleanup(subprocess.run, command, check=True)
            else:
                subprocess.run(command, check=True)
        subprocess.run(['ip', '-n', name, 'link', 'set', 'lo', 'up'],
                       check=True)
        self.diag = netns.run(self.path, sockdiag.SockDiag)
        self.addCleanup(self.diag.close)

    def connected(self, family, address, port=9):
        sock = netns.run(self.path, socket.socket, family,
                         socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.connect((address, port))
        return sock

    def found(self):
        return {item.cookie: item for item in self.diag.connected_udp()}

    def cookie(self, sock):
        return int.from_bytes(
            sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), 'little')

    def test_only_connected_sockets_of_the_namespace(self):
        self.assertEqual({}, self.found())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            outside.connect(('127.0.0.1', 9))
            free = netns.run(self.path, socket.socket, socket.AF_INET,
                             socket.SOCK_DGRAM)
            self.addCleanup(free.close)
            free.bind(('127.0.0.1', 0))
            self.assertEqual({}, self.found())
        wanted = {}
        for family, address in FAMILIES.items():
            wanted[self.cookie(self.connected(family, address))] = address, 9
        mapped = self.connected(socket.AF_INET6, '::ffff:127.0.0.1', 10)
        wanted[self.cookie(mapped)] = '127.0.0.1', 10
        self.assertEqual(wanted, {cookie: item.peer for cookie, item
                                  in self.found().items()})

    def test_many(self):
        for _time in range(500):
            self.connected(socket.AF_INET, '127.0.0.1')
        self.assertEqual(500, len(self.found()))

    def test_destroy(self):
        for family, address in FAMILIES.items():
            sock, other = (self.connected(family, address),
                           self.connected(family, address))
            found = self.found()[self.cookie(sock)]
            self.diag.destroy(found)
            error = self.assertRaises(OSError, sock.recv, 1)
            self.assertEqual(errno.ECONNABORTED, error.errno)
            error = self.assertRaises(OSError, self.diag.destroy, found)
            self.assertEqual(errno.ENOENT, error.errno)
            # The next request is answered as ever.
            self.assertIn(self.cookie(other), self.found())
            self.assertNotIn(self.cookie(sock), self.found())
