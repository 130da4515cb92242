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

"""The CNI client, compiled, against a server that the test plays."""

import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

import fixtures

import kuryr_cilium
from tests import base

SOURCE = (pathlib.Path(kuryr_cilium.__file__).parent / 'cni' /
          'kuryr-cilium-cni.c')
CONFIG = b'{"cniVersion": "1.0.0", "name": "kc", "type": "kuryr-cilium-cni"}'


class Server(fixtures.Fixture):
    """Answers one connection; ``received`` is what came."""

    def __init__(self, handle):
        self._handle = handle
        self.received = b''

    def _setUp(self):
        folder = self.useFixture(fixtures.TempDir()).path
        self.path = folder + '/cni.sock'
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(1)
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        self.addCleanup(self._socket.close)
        self.addCleanup(self._socket.shutdown, socket.SHUT_RDWR)

    def _serve(self):
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        with connection:
            self._handle(self, connection)

    def read(self, connection):
        while chunk := connection.recv(65536):
            self.received += chunk


class ClientCase(base.TestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory(prefix='kca-cni-')
        cls.addClassCleanup(folder.cleanup)
        cls.client = os.path.join(folder.name, 'kuryr-cilium-cni')
        subprocess.run(['gcc', '-std=gnu11', '-O2', '-Wall', '-Wextra',
                        '-Werror', '-static', '-o', cls.client, str(SOURCE)],
                       check=True)

    def serve(self, handle):
        self.server = self.useFixture(Server(handle))
        return self.server

    def answer(self, reply):
        def handle(server, connection):
            server.read(connection)
            connection.sendall(reply)
        return self.serve(handle)

    def call(self, command='ADD', config=CONFIG, path=None, **environment):
        environment = {
            'CNI_COMMAND': command, 'CNI_CONTAINERID': 'c1',
            'CNI_NETNS': '/run/netns/x', 'CNI_IFNAME': 'eth0', 'HOME': '/',
            'KURYR_CILIUM_CNI_SOCKET': path or self.server.path,
            **environment}
        return subprocess.run(
            [self.client], input=config, capture_output=True, timeout=30,
            env={key: value for key, value in environment.items() if value})

    def error(self, done):
        self.assertEqual(1, done.returncode)
        parsed = json.loads(done.stdout)
        self.assertEqual({'cniVersion', 'code', 'msg', 'details'},
                         set(parsed))
        return parsed


class TestPass(ClientCase):

    def test_request_and_answer(self):
        self.answer(b'0\n{"ips": []}')
        done = self.call()
        self.assertEqual((0, b'{"ips": []}'), (done.returncode, done.stdout))
        variables, _, config = self.server.received.partition(b'\0\0')
        self.assertEqual(
            {b'CNI_COMMAND=ADD', b'CNI_CONTAINERID=c1',
             b'CNI_NETNS=/run/netns/x', b'CNI_IFNAME=eth0'},
            set(variables.split(b'\0')))
        self.assertEqual(CONFIG, config)

    def test_exit_code(self):
        self.answer(b'7\n{"code": 7}')
        done = self.call()
        self.assertEqual((7, b'{"code": 7}'), (done.returncode, done.stdout))

    def test_empty_answer_of_a_del(self):
        self.answer(b'0\n')
        done = self.call('DEL')
        self.assertEqual((0, b''), (done.returncode, done.stdout))

    def test_large_both_ways(self):
        config = json.dumps({'cniVersion': '1.0.0',
                             'prevResult': 'x' * 3000000}).encode()
        self.answer(b'0\n' + config)
        done = self.call(config=config)
        self.assertEqual(config, done.stdout)
        self.assertTrue(self.server.received.endswith(config))

    def test_answer_in_pieces(self):
        def handle(server, connection):
            server.read(connection)
            for byte in b'0\n{"a": 1}':
                connection.sendall(bytes([byte]))
        self.serve(handle)
        self.assertEqual(b'{"a": 1}', self.call().stdout)

    def test_answer_before_all_was_read(self):
        def handle(server, connection):
            connection.recv(10)
            connection.sendall(b'1\n{"code": 4}')
        self.serve(handle)
        done = self.call(config=b'{' + b' ' * 2000000)
        self.assertEqual((1, b'{"code": 4}'), (done.returncode, done.stdout))

    def test_no_stdin(self):
        self.answer(b'0\n{}')
        self.assertEqual(0, self.call(config=b'').returncode)


class TestVersion(ClientCase):

    def test_answered_without_an_agent(self):
        done = self.call('VERSION', path='/nowhere')
        parsed = json.loads(done.stdout)
        self.assertEqual(0, done.returncode)
        self.assertEqual('1.0.0', parsed['cniVersion'])
        self.assertEqual(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'],
                         parsed['supportedVersions'])


class TestErrors(ClientCase):

    def test_no_agent(self):
        path = '/nowhere/"\\\x01\u00e9/cni.sock'
        parsed = self.error(self.call(path=path))
        self.assertEqual((11, '1.0.0'), (parsed['code'],
                                         parsed['cniVersion']))
        self.assertIn('Start kuryr-cilium-agent', parsed['details'])
        self.assertIn('/nowhere/"\\\x01', parsed['details'])

    def test_status_without_an_agent(self):
        self.assertEqual(50, self.error(self.call(
            'STATUS', path='/nowhere'))['code'])

    def test_version_is_of_the_outermost_object(self):
        config = (b'{"x": {"cniVersion": "0.1.0"}, "y": "cniVersion", '
                  b'"z\\"cniVersion": 1, "cniVersion" : "0.4.0"}')
        self.assertEqual('0.4.0', self.error(self.call(
            path='/nowhere', config=config))['cniVersion'])

    def test_no_json(self):
        for config in (b'', b'{', b'"', b'{"cniVersion', b'\xff\x00',
                       b'{"cniVersion": "<>"}'):
            self.assertEqual('1.1.0', self.error(self.call(
                path='/nowhere', config=config))['cniVersion'])

    def test_no_command(self):
        self.assertEqual(4, self.error(self.call(
            '', path='/nowhere'))['code'])

    def test_agent_dies(self):
        self.serve(lambda server, connection: connection.recv(1))
        self.assertEqual(11, self.error(self.call())['code'])

    def test_nonsense(self):
        for reply in (b'hello', b'0', b'-1\n', b'999\n{}', b'\n{}'):
            self.answer(reply)
            self.assertEqual(5, self.error(self.call())['code'], reply)

    def test_deadline(self):
        done = threading.Event()
        self.serve(lambda server, connection: done.wait(20))
        self.addCleanup(done.set)
        start = time.monotonic()
        parsed = self.error(self.call(
            config=b'{"cniVersion": "1.0.0", "timeout": 1}'))
        self.assertEqual(11, parsed['code'])
        self.assertLess(time.monotonic() - start, 5)

    def test_deadline_while_writing(self):
        done = threading.Event()
        self.serve(lambda server, connection: done.wait(20))
        self.addCleanup(done.set)
        config = b'{"timeout": 1, "x": "' + b'x' * 4000000 + b'"}'
        parsed = self.error(self.call(config=config))
        self.assertEqual(11, parsed['code'])
