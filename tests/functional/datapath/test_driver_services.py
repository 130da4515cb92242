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

"""Services of the whole driver, with real pods, over a restart."""

import select
import socket
from unittest import mock

from kuryr_cilium.datapath.bpf import outside
from kuryr_cilium.datapath.bpf import services
from kuryr_cilium.lb import model
from tests.functional.datapath import paths

VIP = {4: '172.30.0.10', 6: 'fd30::10'}
PORTS = range(7001, 7009)


class TestRestart(paths.PathCase):

    def setUp(self):
        super().setUp()
        self.apply(fastpath=True)
        self.listeners = {}
        for version, prefix in ((4, '172.30.0.0/16'), (6, 'fd30::/64')):
            # Whatever router it takes, the programs know the way.
            self.scene._ip(self.a, 'route', 'add', prefix, 'via',
                           self.b.address(version))
            for port in PORTS:
                sock = self.b.socket(version, socket.SOCK_STREAM, port)
                self.addCleanup(sock.close)
                sock.listen()
                self.listeners[sock] = port
        self.serve(self.driver)

    def serve(self, driver, ports=PORTS):
        found = model.Service(
            'n1', 'a', '', tuple(VIP.values()), ports=(model.Port(
                '', 6, 80, backends=tuple(
                    model.Backend(self.b.address(version), port)
                    for version in (4, 6) for port in ports)),),
            affinity=100)
        self.assertEqual({}, driver.serve({found.id: found},
                                          model.Node('node'), frozenset()))

    def again(self):
        """Another agent has the same in force."""
        self.restart()
        self.apply(fastpath=True)

    def backend(self, version):
        """The port of the backend that a new connection gets."""
        with self.a.socket(version, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect((VIP[version], 80))
            (listener,), _, _ = select.select(self.listeners, (), (), 5)
            listener.accept()[0].close()
            return self.listeners[listener]

    def test_clients_keep_their_backends(self):
        before = {version: self.backend(version) for version in (4, 6)}
        for _time in range(2):
            self.again()
            self.serve(self.driver)
            for version, port in before.items():
                self.assertEqual([port] * 5, [
                    self.backend(version) for _ in range(5)])

    def test_but_not_those_that_have_gone(self):
        gone = self.backend(4)
        self.again()
        left = [port for port in PORTS if port != gone]
        self.serve(self.driver, left)
        self.assertIn(self.backend(4), left)


class TestSweep(paths.PathCase):

    def test_what_a_failed_one_left_out_is_looked_at_again(self):
        with mock.patch.object(services.Services, 'lost',
                               lambda self: lambda *flow: False), \
                mock.patch.object(services.Services, 'lost_again',
                                  autospec=True) as again:
            self.scene.node.run(self.driver.sweep)
            again.assert_not_called()
            with mock.patch.object(outside, 'sweep', side_effect=OSError):
                self.assertRaises(OSError, self.scene.node.run,
                                  self.driver.sweep)
            again.assert_called_with(self.driver._services)
