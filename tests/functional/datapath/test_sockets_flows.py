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
"""What the node's sockets ask of random services, against the oracle."""

import contextlib
import errno
import os
import socket

import fixtures
import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.datapath.bpf import services
from kuryr_cilium.datapath.bpf import sockets
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model
from kuryr_cilium.linux import sockdiag
from tests import base
from tests.functional.datapath import host as h
from tests.unit.lb import oracle
from tests.unit.lb import strategies
from tests.unit.lb import test_services

EXAMPLES, CLUSTERS, STATES, QUESTIONS, KEPT = 5, 2, 3, 40, 20
KINDS = {'TCP': socket.SOCK_STREAM, 'UDP': socket.SOCK_DGRAM}
_SO_COOKIE = 57


class Run(contextlib.ExitStack):
    """Services in force on a host, and sockets that ask."""

    def __init__(self, test, host, object_file, number):
        super().__init__()
        self._test = test
        self._host = host
        loaded = self.enter_context(loader.load(
            object_file, os.path.join(host.bpffs, 'run%d' % number)))
        self._maps = maps_.Maps(loaded.maps)
        self._services = services.Services(
            self._maps, writer.Writer(self._maps), lambda name: 1,
            ('169.254.42.1', 'fd6b::1'), (30000, 32767))
        self._sockets = host.place.run(
            sockets.Sockets, self._maps,
            os.path.join(host.bpffs, 'links%d' % number), loaded.programs)
        self.callback(self._sockets.close)
        host.place.run(self._sockets.serve, '')
        self.callback(self._sockets.leave)
        self._diag = host.place.run(sockdiag.SockDiag)
        self.callback(self._diag.close)
        self._by_affinity = {}
        # Sockets that send datagrams: (socket, what is asked) -> backend.
        self.kept = {}

    def become(self, cluster):
        """Bring a cluster's services in force."""
        self._truth = oracle.Cluster(*cluster, strategies.NODE,
                                     strategies.ZONE, strategies.NODES)
        made = test_services.services.Services(lambda address: None)
        for obj in sum(cluster, []):
            (made.set_slice if 'addressType' in obj
             else made.set_service)(obj)
        self._test.assertEqual({}, self._services.update(
            made.services, model.Node(strategies.NODE, strategies.ZONE),
            frozenset(strategies.NODES)))
        self._rows = {key: row for key, row
                      in self._services.table.rows.items() if row.count}
        # A client's choice ends with the backend, or with affinity.
        self._by_affinity.clear()

    def ask(self, random):
        """Ask some questions, more often such as somebody answers."""
        asked = [question for question in strategies.QUESTIONS
                 if question[2] in KINDS]
        served = [question for question in asked
                  if self._truth.ask(*question)] or asked
        for questions in (asked, served):
            for question in random.choices(questions, k=QUESTIONS):
                self.connect(*question)
            for address, port, _ in random.choices(questions, k=KEPT):
                self.keep(address, port)

    def connect(self, address, port, protocol):
        """A socket that connects goes where it may, or is refused."""
        with self._socket(address, protocol) as sock:
            number = sock.connect_ex((address, port))
            backend = None
            if number in (0, errno.EINPROGRESS):
                if protocol == 'TCP':
                    backend = self._led(sock, port, address)
                else:
                    backend = self._entry(sock, sockets.Way.FROM, port,
                                          address)
                    self._test.assertEqual(
                        backend or (address, port), self._peer(sock))
            self._check((address, port, protocol), number, backend)

    def keep(self, address, port):
        """A socket that sends a datagram, and is to go on."""
        self._begin(self.enter_context(self._socket(address, 'UDP')),
                    (address, port, 'UDP'))

    def again(self, sock, question):
        """A later datagram goes where the first one went."""
        self._test.assertEqual((0, self.kept[sock, question]),
                               self._send(sock, question), question)

    def sweep(self):
        """Only datagrams to lost backends begin anew."""
        lost = self._services.lost()
        if lost is None:
            return
        self._sockets.sweep(lost)
        for (sock, question), backend in list(self.kept.items()):
            address, port, _ = question
            if lost(address, port, socket.IPPROTO_UDP, backend):
                del self.kept[sock, question]
                self._begin(sock, question)

    def _begin(self, sock, question):
        number, backend = self._send(sock, question)
        self._check(question, number, backend)
        if backend:
            self.kept[sock, question] = backend

    def _send(self, sock, question):
        """What a datagram has for its error, and for its backend."""
        address, port, _ = question
        number = 0
        try:
            sock.sendto(b'?', (address, port))
        except OSError as error:
            number = error.errno
        return number, self._entry(sock, sockets.Way.TO, port, address)

    def _check(self, question, number, backend):
        address, _, protocol = question
        allowed = self._truth.ask(*question)
        if allowed is None:
            self._test.assertIsNone(backend, question)
        elif not allowed:
            self._test.assertEqual((errno.ECONNREFUSED, None),
                                   (number, backend), question)
        else:
            self._test.assertIn(backend, allowed, question)
            row = test_services.find(
                self._rows, *question[:2], test_services.PROTOCOLS[protocol])
            if row.affinity:
                key = row.service, frontends.family(address)
                self._test.assertEqual(self._by_affinity.setdefault(
                    key, backend), backend, question)

    def _socket(self, address, protocol):
        sock = self._host.socket(frontends.family(address), KINDS[protocol])
        sock.setblocking(False)
        return sock

    def _cookie(self, sock):
        return int.from_bytes(
            sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), 'little')

    def _entry(self, sock, way, port, address):
        """The backend of a socket, from kc_sock; None if it has none."""
        cookie = self._cookie(sock)
        for data, value in libbpf.map_items(self._maps.fd(sockets.SOCKETS)):
            key, name = sockets.Key.unpack(data), sockets.Name.unpack(value)
            if (key.cookie, key.way) == (cookie, way):
                ends = (key.address, key.port), tuple(name)
                backend, asked = ends if way == sockets.Way.FROM else (
                    ends[::-1])
                self._test.assertEqual((address, port), asked)
                return backend
        return None

    def _led(self, sock, port, address):
        """The backend of a TCP socket, from kc_led; None if it has none."""
        found = h.led(self._maps.fd('kc_led'), sock)
        if found is None:
            return None
        asked, backend = found
        self._test.assertEqual((address, port), asked)
        return backend

    def _peer(self, sock):
        """What the kernel has connected a socket to."""
        cookie = self._cookie(sock)
        return next(found.peer for found in self._diag.connected_udp()
                    if found.cookie == cookie)


class TestFlows(base.TestCase):

    def setUp(self):
        super().setUp()
        self.host = self.useFixture(h.Host())
        # Whatever leaves is lost on the way.
        self.host.ip('link', 'add', 'out', 'type', 'veth', 'peer', 'name',
                     'lost')
        self.host.ip('link', 'set', 'lost', 'up')
        self.host.ip('link', 'set', 'out', 'up')
        self.host.ip('route', 'add', 'default', 'dev', 'out')
        self.host.ip('-6', 'route', 'add', 'default', 'dev', 'out')
        self.object_file = os.path.join(
            self.useFixture(fixtures.TempDir()).path, loader.OBJECT)
        loader.compile_object(self.object_file)
        self.runs = 0

    @hypothesis.settings(strategies.SETTINGS, max_examples=EXAMPLES)
    @hypothesis.given(st.data())
    def test_every_call(self, data):
        where = data.draw(strategies.places())
        random = data.draw(st.randoms(use_true_random=False))
        self.runs += 1
        with Run(self, self.host, self.object_file, self.runs) as run:
            for _time in range(CLUSTERS):
                made, slices = data.draw(strategies.clusters(where))
                for _state in range(STATES):
                    run.become((made, slices))
                    run.sweep()
                    for _again in range(2):
                        for flow in list(run.kept):
                            run.again(*flow)
                        run.ask(random)
                    slices = [data.draw(strategies.slices(
                        service, number, where)) for service in made
                        for number in range(2)]
