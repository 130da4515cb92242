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
"""Services as the node's own sockets reach them."""

from concurrent import futures
import errno
import itertools
import os
import socket
import subprocess
import sys
import threading

from kuryr_cilium.datapath.bpf import cgroups
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import sockets
from kuryr_cilium import exceptions
from tests import base
from tests.functional.datapath import host as h
from tests.functional.datapath import scene

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
#: Family of the socket, that of the service, and how it is written.
WAYS = ((4, 4, '%s'), (6, 6, '%s'), (6, 4, '::ffff:%s'))


class SocketsCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.host = self.useFixture(h.Host())
        self.driver = self.host.driver()

    def serve(self, *services):
        h.serve(self.driver, *services)

    def servers(self, *places):
        started = h.Servers(*(places or self.host.backends))
        self.addCleanup(started.stop)
        return started

    def socket(self, family, kind, protocol=0, host=None):
        sock = (host or self.host).socket(family, kind, protocol)
        self.addCleanup(sock.close)
        sock.settimeout(base.scaled(5))
        return sock

    def connect(self, address, port=h.PORT, kind=STREAM, family=None,
                **more):
        sock = self.socket(family or (6 if ':' in address else 4), kind,
                           **more)
        sock.connect((address, port))
        return sock

    def ask(self, sock):
        """Who the backend of a connected socket is."""
        sock.sendall(b'?')
        return sock.recv(100)

    def ask_at(self, sock, address, port=h.PORT):
        """Who answers a datagram; the answer comes from whom was asked."""
        sock.sendto(b'?', (address, port))
        answer, peer = sock.recvfrom(100)
        self.assertEqual((address, port), peer[:2])
        return answer

    def assertRefused(self, call, *args):
        error = self.assertRaises(OSError, call, *args)
        self.assertEqual(errno.ECONNREFUSED, error.errno)

    def entries(self, way):
        """Keys of kc_sock."""
        path = os.path.join(self.host.bpffs, 'kc', 'kc_sock_v1')
        with libbpf.pinned(path) as fd:
            found = [sockets.Key.unpack(key)
                     for key, _ in libbpf.map_items(fd)]
        return [key for key in found if key.way == way]


class TestReach(SocketsCase):

    def setUp(self):
        super().setUp()
        self.servers()
        self.serve(h.service(*h.BACKENDS, node_port=h.NODE_PORT))

    def asked(self):
        """(socket's family, address) of each way to the service."""
        for family, version, form in WAYS:
            yield family, form % h.VIP[version]

    def test_connected(self):
        for (family, address), kind in itertools.product(
                self.asked(), (STREAM, DGRAM)):
            found = set()
            for _time in range(20):
                sock = self.connect(address, kind=kind, family=family)
                found.add(self.ask(sock))
                self.assertEqual((address, h.PORT), sock.getpeername()[:2])
                if kind == DGRAM:
                    sock.send(b'?')
                    self.assertEqual((address, h.PORT),
                                     sock.recvfrom(100)[1][:2])
            self.assertEqual({b'0', b'1'}, found)

    def test_datagrams(self):
        for family, address in self.asked():
            found = set()
            for _time in range(20):
                sock = self.socket(family, DGRAM)
                answers = {self.ask_at(sock, address) for _time in range(5)}
                self.assertEqual(1, len(answers))
                found |= answers
            self.assertEqual({b'0', b'1'}, found)

    def test_datagrams_of_a_connected_socket(self):
        sock = self.connect(h.BACKENDS[0][4], h.BACKEND_PORT, DGRAM)
        self.assertEqual(b'0', self.ask(sock))
        self.serve(h.service(h.BACKENDS[0]))
        sock.sendto(b'?', (h.VIP[4], h.PORT))
        self.assertEqual(b'0', sock.recv(100))

    def test_several_paths(self):
        sock = self.connect(h.VIP[4], protocol=socket.IPPROTO_MPTCP)
        self.assertIn(self.ask(sock), (b'0', b'1'))

    def test_node_ports(self):
        for version in (4, 6):
            for kind in (STREAM, DGRAM):
                sock = self.connect(h.NODE[version], h.NODE_PORT, kind)
                self.ask(sock)
                self.assertEqual((h.NODE[version], h.NODE_PORT),
                                 sock.getpeername()[:2])
            self.ask_at(self.socket(version, DGRAM), h.NODE[version],
                        h.NODE_PORT)
        # Not an address of the node, and that which stands for any node's.
        for address in ('127.0.0.1', '0.0.0.0', '::1', '::'):
            self.assertRefused(self.connect, address, h.NODE_PORT)

    def test_node_ports_where_somebody_listens(self):
        place = scene.Place(self.host.name, ('127.0.0.1', '::1'))
        for version, address in ((4, '0.0.0.0'), (6, '::')):
            with place.socket(version, STREAM, h.NODE_PORT) as own:
                own.listen()
                self.connect(address, h.NODE_PORT)
                own.accept()[0].close()

    def test_other_addresses_are_left_alone(self):
        for address in (h.BACKENDS[1][4], h.BACKENDS[1][6]):
            sock = self.connect(address, h.BACKEND_PORT)
            self.assertEqual(b'1', self.ask(sock))
            self.assertEqual((address, h.BACKEND_PORT),
                             sock.getpeername()[:2])
            self.assertEqual(b'1', self.ask_at(
                self.socket(6 if ':' in address else 4, DGRAM), address,
                h.BACKEND_PORT))

    def test_who_asks_a_backend_itself_hears_of_the_backend(self):
        sock = self.socket(4, DGRAM)
        self.serve(h.service(h.BACKENDS[0]),
                   h.service(h.BACKENDS[0], name='b', addresses=h.SECOND))
        for _time in range(2):
            for address, port in ((h.VIP[4], h.PORT), (h.SECOND[4], h.PORT),
                                  (h.BACKENDS[0][4], h.BACKEND_PORT)):
                self.assertEqual(b'0', self.ask_at(sock, address, port))

    def test_a_closed_connection_leaves_nothing(self):
        for kind in (STREAM, DGRAM):
            for family, address in self.asked():
                self.connect(address, kind=kind, family=family).close()
        self.assertEqual([], self.entries(sockets.Way.FROM))
        self.connect(h.VIP[4], kind=DGRAM)
        self.assertEqual(1, len(self.entries(sockets.Way.FROM)))


class TestRefused(SocketsCase):

    def assertAllRefused(self, address, port):
        family = 6 if ':' in address else 4
        for kind in (STREAM, DGRAM):
            self.assertRefused(self.connect, address, port, kind)
        self.assertRefused(self.socket(family, DGRAM).sendto, b'?',
                           (address, port))

    def test_no_backend(self):
        self.serve(h.service(node_port=h.NODE_PORT))
        for version in (4, 6):
            self.assertAllRefused(h.VIP[version], h.PORT)
            self.assertAllRefused(h.NODE[version], h.NODE_PORT)

    def test_no_such_port(self):
        self.serve(h.service(*h.BACKENDS))
        for version in (4, 6):
            self.assertAllRefused(h.VIP[version], h.PORT + 1)
            self.assertAllRefused(h.VIP[version], h.NODE_PORT)

    def test_a_socket_may_ask_again(self):
        self.serve(h.service())
        sock = self.socket(4, STREAM)
        self.assertRefused(sock.connect, (h.VIP[4], h.PORT))
        self.servers()
        self.serve(h.service(h.BACKENDS[1]))
        sock.connect((h.VIP[4], h.PORT))
        self.assertEqual(b'1', self.ask(sock))


class TestAffinity(SocketsCase):

    def test_the_node_is_one_client(self):
        self.servers()
        self.serve(h.service(*h.BACKENDS, affinity=10800,
                             node_port=h.NODE_PORT))
        for version in (4, 6):
            found = set()
            for _time in range(10):
                found.add(self.ask(self.connect(h.VIP[version])))
                found.add(self.ask(self.connect(h.NODE[version],
                                                h.NODE_PORT)))
                found.add(self.ask_at(self.socket(version, DGRAM),
                                      h.VIP[version]))
            # Each protocol is a client's own choice.
            self.assertIn(len(found), (1, 2))
        kept = self.ask(self.connect(h.VIP[4]))
        other = 1 - int(kept)
        self.serve(h.service(h.BACKENDS[other], affinity=10800))
        self.assertEqual(b'%d' % other, self.ask(self.connect(h.VIP[4])))


class TestLostBackends(SocketsCase):

    def setUp(self):
        super().setUp()
        self.servers()
        self.serve(h.service(h.BACKENDS[0]))

    def test_datagrams_go_elsewhere(self):
        found = [(self.socket(version, DGRAM), h.VIP[version])
                 for version in (4, 6)]
        for sock, address in found:
            self.assertEqual(b'0', self.ask_at(sock, address))
        self.serve(h.service(*h.BACKENDS))
        for sock, address in found:
            self.assertEqual(b'0', self.ask_at(sock, address))
        self.serve(h.service(h.BACKENDS[1]))
        for sock, address in found:
            self.assertEventually(
                lambda: self.ask_at(sock, address) == b'1')

    def test_connected_sockets_are_ended(self):
        streams = [self.connect(h.VIP[4])]
        ended = [self.connect(address, kind=DGRAM, family=family)
                 for family, address in (
                     (4, h.VIP[4]), (6, h.VIP[6]), (6, '::ffff:' + h.VIP[4]))]
        # What asked that backend itself, or another one, is no service's.
        spared = [self.connect(h.BACKENDS[0][4], h.BACKEND_PORT, DGRAM),
                  self.connect(h.BACKENDS[1][6], h.BACKEND_PORT, DGRAM)]
        self.serve(h.service(h.BACKENDS[1]))
        for sock in ended:
            error = self.assertRaises(OSError, sock.recv, 100)
            self.assertEqual(errno.ECONNABORTED, error.errno)
        for sock in (*streams, *spared):
            self.ask(sock)
        again = self.connect(h.VIP[4], kind=DGRAM)
        self.assertEqual(b'1', self.ask(again))
        self.host.place.run(self.driver.sweep)
        self.assertEqual(b'1', self.ask(again))

    def test_a_late_answer_is_still_the_service_s(self):
        sock = self.socket(4, DGRAM)
        sock.sendto(b'?', (h.VIP[4], h.PORT))
        self.serve()
        self.host.place.run(self.driver.sweep)
        self.assertEqual((h.VIP[4], h.PORT), sock.recvfrom(100)[1])
        self.assertEqual([], self.entries(sockets.Way.TO))


class TestOthers(SocketsCase):

    def test_other_namespaces_are_left_alone(self):
        """Another node, and a pod, where somebody has the same addresses."""
        other = self.useFixture(h.Host())
        pod = self.useFixture(h.Host())
        for found in (other, pod):
            found.add_address(h.VIP)
        self.servers(self.host.backends[1])
        self.servers(self.host.place, other.backends[0])
        driver = other.driver()
        self.serve(h.service(h.BACKENDS[1]))
        for version in (4, 6):
            self.assertEqual(b'0', self.ask(self.connect(h.VIP[version])))
            for found in (other, pod):
                self.assertRefused(self._connect_from, found, version)
        h.serve(driver, h.service(h.BACKENDS[0]))
        for version in (4, 6):
            self.assertEqual(b'0', self.ask(self.connect(h.VIP[version])))
            self.assertEqual(b'1', self.ask(
                self._connect_from(other, version)))
            self.assertRefused(self._connect_from, pod, version)

    def _connect_from(self, host, version):
        return self.connect(h.VIP[version], host=host)


class TestLinks(SocketsCase):

    def ids(self):
        """Numbers of the programs that are attached, by name."""
        found = {}
        for name in self.host.pinned():
            with libbpf.pinned(os.path.join(self.host.bpffs, 'kc', 'sockets',
                                            name)) as link:
                found[name] = libbpf.cgroup_link_info(link).program
        return found

    def assertUnserved(self):
        """Soon nobody leads sockets: the kernel takes programs off later."""
        def fails():
            try:
                self.connect(h.VIP[4])
            except OSError:
                return True
            return False
        base.wait_until(fails, 10, 'sockets are left alone')

    def test_services_outlive_the_agent(self):
        self.servers()
        self.serve(h.service(*h.BACKENDS))
        stream, datagrams = self.connect(h.VIP[4]), self.socket(6, DGRAM)
        known = self.ask(stream), self.ask_at(datagrams, h.VIP[6])
        self.driver.stop()
        before = self.ids()
        self.assertEqual(set(cgroups.HOOKS), set(before))
        self.ask(self.connect(h.VIP[6]))
        self.driver = self.host.driver()
        self.assertEqual(set(before), set(self.ids()))
        self.assertEqual(set(), {*before.values()} & {*self.ids().values()})
        # Before the agent says what the services are, as after a restart.
        self.ask(self.connect(h.VIP[6]))
        self.serve(h.service(*h.BACKENDS))
        self.assertEqual(known, (self.ask(stream),
                                 self.ask_at(datagrams, h.VIP[6])))

    def test_an_update_has_no_gap(self):
        self.servers()
        self.serve(h.service(*h.BACKENDS))
        with futures.ThreadPoolExecutor(1) as pool:
            done = threading.Event()
            asked = pool.submit(self._ask_until, done)
            try:
                for _time in range(3):
                    self.driver.stop()
                    self.driver = self.host.driver()
                    self.serve(h.service(*h.BACKENDS))
            finally:
                done.set()
            self.assertLess(10, asked.result())

    def _ask_until(self, done):
        """Ask again and again; how often."""
        count = 0
        while not done.is_set():
            with self.host.socket(4, STREAM) as sock:
                sock.connect((h.VIP[4], h.PORT))
                self.assertIn(self.ask(sock), (b'0', b'1'))
            count += 1
        return count

    def test_switched_off(self):
        self.servers()
        self.serve(h.service(*h.BACKENDS))
        stream = self.connect(h.VIP[4])
        for option in ('enabled', 'replace_kube_proxy'):
            self.driver.stop()
            self.host.set_option(option, False)
            self.driver = self.host.driver()
            self.assertEqual(set(), self.host.pinned())
            self.assertNotIn('sockets', os.listdir(
                os.path.join(self.host.bpffs, 'kc')))
            self.assertUnserved()
            self.assertIn(self.ask(stream), (b'0', b'1'))
            self.host.set_option(option, True)
            self.driver.stop()
            self.driver = self.host.driver()
            self.assertEqual(set(cgroups.HOOKS), self.host.pinned())
            self.ask(self.connect(h.VIP[4]))

    def cgroup(self):
        """The root, and a cgroup of the test's own."""
        root = cgroups.find_root(cgroups.MOUNTS.read_text())
        folder = os.path.join(root, self.host.name)
        os.mkdir(folder)
        self.addCleanup(os.rmdir, folder)
        return root, folder

    def test_another_cgroup(self):
        self.servers()
        self.serve(h.service(*h.BACKENDS))
        root, folder = self.cgroup()
        self.driver.stop()
        self.host.set_option('cgroup_dir', folder)
        self.driver = self.host.driver()
        # This process is not in it.
        self.assertUnserved()
        self.driver.stop()
        self.host.set_option('cgroup_dir', root)
        self.driver = self.host.driver()
        self.ask(self.connect(h.VIP[4]))

    def test_the_cgroup_of_a_container(self):
        """Seen from a cgroup namespace, it would be the root."""
        _, folder = self.cgroup()
        script = ('echo $$ >%s/cgroup.procs; exec unshare --cgroup --mount '
                  'sh -c \'mount -t cgroup2 none "$1" && shift && exec "$@"\' '
                  'sh "$@"' % folder)
        done = subprocess.run(
            ['sh', '-c', script, 'sh', self.host.bpffs, sys.executable, '-c',
             'from kuryr_cilium.datapath.bpf import cgroups\n'
             'cgroups.open_root("")'], capture_output=True, text=True)
        self.assertIn('%s is the cgroup of a container' % self.host.bpffs,
                      done.stderr)

    def test_not_a_cgroup(self):
        self.driver.stop()
        self.host.set_option('cgroup_dir', self.host.bpffs)
        error = self.assertRaises(exceptions.DatapathError, self.host.driver)
        self.assertIn('%s is no cgroup of version 2' % self.host.bpffs,
                      str(error))
        self.assertIn('replace_kube_proxy = false', str(error))
