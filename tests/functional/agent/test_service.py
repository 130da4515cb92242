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

"""The agent's process, with nothing of what it depends on: as after a reboot.

It has a network namespace of its own, since it removes links that belong to
no pod of its records.
"""

import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import fixtures

from kuryr_cilium.agent import store
from kuryr_cilium.agent import view
from kuryr_cilium.agent import viewfile
from kuryr_cilium.cli import client
from kuryr_cilium.cli import shell
from kuryr_cilium import exceptions
from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.rpc import objects
from tests import base
from tests.unit.agent import samples
from tests.unit.agent import test_cni_message

CONFIG = '''\
[DEFAULT]
transport_url = fake://
[agent]
host = node-1
node_ips = 192.0.2.11
state_dir = {path}/state
run_dir = {path}/run
health_address = 127.0.0.1:9801
[binding]
ovsdb_connection = unix:{path}/db.sock
ovsdb_timeout = 1
[kubernetes]
api_url = https://192.0.2.1:6443
[rpc]
call_timeout = 1
'''
GONE_VIF = '9c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c02'


class TestAgent(base.TestCase):

    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.config = self.path / 'agent.conf'
        self.config.write_text(CONFIG.format(path=self.path))
        (self.path / 'ca.crt').write_text('')
        (self.path / 'token').write_text('x')
        with self.config.open('a') as stream:
            stream.write('[kubernetes]\ntoken_file = %s/token\n' % self.path)
        self.socket = str(self.path / 'run' / 'api.sock')
        self.agent = client.AgentClient(self.socket)
        self.process = None

    def start(self):
        log = (self.path / 'log').open('ab')
        self.addCleanup(log.close)
        self.process = subprocess.Popen(
            ['unshare', '--net', 'sh', '-c', 'ip link set lo up; exec "$@"',
             'sh', sys.executable, '-m', 'tests.functional.agent.'
             'agent_process', '--config-file', str(self.config)],
            stdout=log, stderr=log, start_new_session=True)
        self.addCleanup(self.kill)
        return base.wait_until(self.started, 30, self.log)

    def log(self):
        return (self.path / 'log').read_text()[-4000:]

    def status(self):
        if self.process.poll() is not None:
            raise AssertionError(self.log())
        try:
            return self.agent.get('/v1/status')
        except exceptions.AgentUnreachable:
            return None

    def started(self):
        status = self.status()
        return status if status and status['checks']['agent'] == 'ok' else None

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def cli(self, *args):
        output = io.StringIO()
        app = shell.Shell('1', stdout=output, stderr=output)
        code = app.run(['--config-file', str(self.config), *args])
        return code, output.getvalue()

    def cni(self, environment, config=None):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.path / 'run' / 'cni.sock'))
            connection.sendall(test_cni_message.message(
                environment, {**test_cni_message.CONFIG, **(config or {})}))
            connection.shutdown(socket.SHUT_WR)
            data = b''
            while chunk := connection.recv(65536):
                data += chunk
        code, _, body = data.partition(b'\n')
        return int(code), json.loads(body) if body else None

    def health(self, path, port=9801):
        """(status, text) of a port, asked in the agent's namespace."""
        script = ('import urllib.request as r, urllib.error as e\n'
                  'try: a = r.urlopen("http://127.0.0.1:%d%s")\n'
                  'except e.HTTPError as error: a = error\n'
                  'print(a.status, a.read().decode())' % (port, path))
        answer = subprocess.run(
            ['nsenter', '--net=/proc/%d/ns/net' % self.process.pid,
             sys.executable, '-c', script], check=True, capture_output=True,
            text=True).stdout
        status, _, text = answer.partition(' ')
        return int(status), text

    def remember(self):
        """What an earlier process left on disk."""
        records = store.Store(self.path / 'state' / 'endpoints')
        # NOTE: a namespace that is there for as long as this test.
        records.put(samples.record(netns='/proc/%d/ns/net' % os.getpid()))
        held = [samples.endpoint(ingress='r'), samples.selector(
            's', '10.0.0.1'), samples.ruleset('r', 's')]
        viewfile.ViewFile(self.path / 'state' / 'view.json').save(3, {
            objects.key(obj): view.Held(obj, objects.digest(obj))
            for obj in held})
        return records

    def test_with_nothing_to_depend_on(self):
        status = self.start()
        self.assertFalse(status['ready'])
        self.assertEqual('node-1', status['host'])
        for name, text in (('openvswitch', 'ovsdb-server'),
                           ('kubernetes', 'pods'),
                           ('policy', 'controller')):
            self.assertIn(text, status['checks'][name])
        self.assertEqual(200, self.health('/healthz')[0])
        code, text = self.health('/readyz')
        self.assertEqual(503, code)
        self.assertIn('openvswitch: OVSDB', text)
        code, text = self.health('/metrics')
        for name in ('kuryr_cilium_policy_view_age_seconds',
                     'kuryr_cilium_dropped_packets_total{reason="POLICY"}',
                     'kuryr_cilium_releases_waiting'):
            self.assertIn(name, text)
        code, answer = self.cni({'CNI_COMMAND': 'STATUS'})
        self.assertEqual((1, 50), (code, answer['code']))
        code, answer = self.cni(test_cni_message.ADD, {'timeout': 2})
        self.assertEqual((1, 11), (code, answer['code']))
        self.assertEqual((0, None), self.cni({
            **test_cni_message.ADD, 'CNI_COMMAND': 'DEL'}))

    def test_takes_over_what_is_on_disk(self):
        self.remember()
        status = self.start()
        self.assertEqual(
            (3, False, 1, 1),
            (status['view']['epoch'], status['view']['confirmed'],
             status['view']['endpoints'], status['endpoints']['ready']))
        code, text = self.cli('endpoint', 'list', '-f', 'json')
        self.assertEqual(0, code)
        listed = json.loads(text)[0]
        self.assertEqual(
            ('web', 'ready', ['10.99.3.7', 'fd99::3:7'], samples.VIF,
             ['NetworkPolicy/default/landing'], ['allow all']),
            tuple(listed[name] for name in (
                'name', 'state', 'addresses', 'port_id', 'ingress',
                'egress')))
        code, text = self.cli('endpoint', 'show', 'web', '-f', 'json')
        self.assertEqual((0, samples.UID), (code, json.loads(text)['uid']))
        self.assertEqual(1, self.cli('endpoint', 'show', 'other')[0])
        self.assertEqual(2, json.loads(text)['connections'])
        code, text = self.cli('ruleset', 'list')
        self.assertIn('NetworkPolicy/default/landing', text)
        self.assertIn('TCP/80', text)
        self.assertIn('groups: 1', text)
        code, text = self.cli('status')
        self.assertIn('ovsdb-server', text)
        code, text = self.cli('drop', 'list', '-f', 'yaml')
        self.assertIn('packets: 3', text)
        self.assertEqual(0, self.cli('monitor')[0])
        code, text = self.cli('service', 'list')
        self.assertEqual(0, code)
        self.assertIn('may be out of date', text)

    def test_health_check_ports_of_services(self):
        service = lb_model.Service(
            'shop', 'web', '', ('10.96.0.7',), ports=(
                lb_model.Port('', 6, 80, 0, (
                    lb_model.Backend('10.99.3.7', 80, 'node-1'),)),),
            external_local=True, health_port=30999)
        viewfile.ViewFile(self.path / 'state' / 'services.json').save(
            3, {objects.key(service): view.Held(service,
                                                objects.digest(service))})
        self.start()
        status, text = self.health('/', 30999)
        self.assertEqual((200, 1), (status, json.loads(text)[
            'localEndpoints']))
        self.kill()
        with self.config.open('a') as stream:
            stream.write('[services]\nreplace_kube_proxy = false\n')
        self.start()
        # They are kube-proxy's then.
        self.assertRaises(subprocess.CalledProcessError, self.health, '/',
                          30999)

    def test_services_are_switched_off(self):
        with self.config.open('a') as stream:
            stream.write('[services]\nenabled = false\n')
        self.assertNotIn('services', self.start()['checks'])
        self.assertIn('node-1 serves []', self.log())
        code, text = self.cli('service', 'list')
        self.assertEqual(1, code)
        self.assertIn('[services] enabled is false', text)

    def test_stops_within_seconds_and_starts_after_a_kill(self):
        self.remember()
        self.start()
        self.process.terminate()
        self.assertEqual(0, self.process.wait(10))
        self.assertFalse(pathlib.Path(self.socket).exists())
        self.assertFalse((self.path / 'run' / 'cni.sock').exists())
        self.start()
        self.kill()
        self.assertTrue(pathlib.Path(self.socket).exists())
        self.assertEqual(1, self.start()['endpoints']['ready'])

    def test_an_add_that_had_not_ended_is_kept_until_it_can_be_undone(self):
        records = self.remember()
        records.put(samples.record('other', GONE_VIF, 'c2', 'half',
                                   store.PLUGGING))
        # Open vSwitch is away: its port can't be removed yet.
        status = self.start()
        self.assertEqual((1, 1), (status['endpoints']['ready'],
                                  status['endpoints']['plugging']))
        code, answer = self.cni({
            'CNI_COMMAND': 'DEL', 'CNI_CONTAINERID': 'c2',
            'CNI_IFNAME': 'eth0'})
        self.assertEqual((1, 11), (code, answer['code']))

    def test_corrupt_files_are_no_obstacle(self):
        self.remember()
        (self.path / 'state' / 'view.json').write_text('{"version": 1, ')
        (self.path / 'state' / 'endpoints' / 'x.json').write_text('\0\0')
        status = self.start()
        self.assertIsNone(status['view']['epoch'])
        self.assertEqual(1, status['endpoints']['ready'])
        self.assertIn('corrupt_files_total 1.0', self.health('/metrics')[1])

    def test_what_cannot_start_ends(self):
        self.config.write_text(self.config.read_text().replace(
            '%s/state' % self.path, '/dev/null/state'))
        log = (self.path / 'log').open('ab')
        self.addCleanup(log.close)
        process = subprocess.run(
            ['unshare', '--net', sys.executable, '-m', 'tests.functional.'
             'agent.agent_process', '--config-file', str(self.config)],
            stdout=log, stderr=log, timeout=120)
        self.assertEqual(1, process.returncode)
        self.assertIn('Cannot start: Cannot write /dev/null/state',
                      self.log())
        self.assertIn('Giving up after 5 attempts', self.log())

    def test_the_cli_without_an_agent(self):
        code, text = self.cli('endpoint', 'list')
        self.assertEqual(1, code)
        code, text = self.cli('monitor', '--follow')
        self.assertEqual(1, code)
