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

"""A RabbitMQ of the test's own, on free ports of the loopback interface."""

import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import fixtures

from tests import base

_SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server'
VHOST = 'kuryr-cilium'
PASSWORD = 'a test'


def _free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def _hashed(password):
    """A password as a definitions file has it (rabbit_password_hashing)."""
    salt = b'salt'
    return base64.b64encode(
        salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def node_permissions(user, host):
    """What an agent of a node may do, and nothing else."""
    own = (r'^(kuryr-cilium|kuryr-cilium-agent(\.%(host)s|_fanout)?|'
           r'reply_%(host)s:kuryr-cilium-agent:\d+)$' % {'host': host})
    return (
        {'user': user, 'vhost': VHOST, 'configure': own, 'write': own,
         'read': own},
        {'user': user, 'vhost': VHOST, 'exchange': 'kuryr-cilium',
         'write': r'^kuryr-cilium-(controller|leader)$',
         'read': r'^kuryr-cilium-agent(\.%s)?$' % host})


class RabbitMQ(fixtures.Fixture):
    """A broker with a user 'controller' and a user for each node.

    :param nodes: names of nodes; the users have the same names.
    """

    def __init__(self, nodes=()):
        super().__init__()
        self._nodes = nodes
        self._epmd = None
        self._server = None

    def _setUp(self):
        self.path = tempfile.mkdtemp(prefix='kuryr-cilium-rabbit-')
        self.addCleanup(shutil.rmtree, self.path, ignore_errors=True)
        self.port, self._dist_port, epmd_port = (
            _free_port(), _free_port(), _free_port())
        self._environ = dict(
            os.environ, HOME=self.path, LANG='C.UTF-8',
            RABBITMQ_NODENAME='kuryr-cilium-%d@localhost' % self.port,
            RABBITMQ_MNESIA_BASE=self._file('mnesia'),
            RABBITMQ_LOG_BASE=self._file('log'),
            RABBITMQ_CONFIG_FILE=self._file('rabbitmq.conf'),
            RABBITMQ_ENABLED_PLUGINS_FILE=self._file('plugins'),
            RABBITMQ_DIST_PORT=str(self._dist_port),
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1:1 +sbwt none',
            ERL_EPMD_ADDRESS='127.0.0.1', ERL_EPMD_PORT=str(epmd_port),
            RUNNING_UNDER_SYSTEMD='1')      # so that it is one process
        self._write_configuration()
        self._epmd = subprocess.Popen(
            ['epmd', '-port', str(epmd_port), '-address', '127.0.0.1'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self._end, self._epmd)
        self.addCleanup(self.stop)
        self.start()

    def url(self, user='controller'):
        return 'rabbit://%s:%s@127.0.0.1:%d/%s' % (
            user, PASSWORD.replace(' ', '%20'), self.port, VHOST)

    def start(self):
        """Start it and wait until it has opened its port."""
        with open(self._file('out'), 'ab') as out:
            self._server = subprocess.Popen(
                [_SERVER], env=self._environ, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True)
        base.wait_until(self._answers, 120, self._log, 0.1)

    def stop(self):
        """Stop it as an operator would."""
        if self._server is not None:
            self._end(self._server)
            self._server = None

    def wipe(self):
        """Remove what it has stored; it must be stopped."""
        shutil.rmtree(self._file('mnesia'))

    def _file(self, name):
        return os.path.join(self.path, name)

    def _answers(self):
        if self._server.poll() is not None:
            raise AssertionError('RabbitMQ ended: %s' % self._log())
        try:
            socket.create_connection(('127.0.0.1', self.port), 1).close()
        except OSError:
            return False
        return True

    def _log(self):
        with open(self._file('out'), errors='replace') as out:
            return out.read()[-4000:]

    def _end(self, process):
        """End a process that this fixture has started."""
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write_configuration(self):
        permissions = [{'user': 'controller', 'vhost': VHOST,
                        'configure': '.*', 'write': '.*', 'read': '.*'}]
        topic_permissions = []
        for node in self._nodes:
            one, topic = node_permissions(node, node)
            permissions.append(one)
            topic_permissions.append(topic)
        users = [{'name': name, 'password_hash': _hashed(PASSWORD),
                  'hashing_algorithm': 'rabbit_password_hashing_sha256',
                  'tags': ''} for name in ('controller', *self._nodes)]
        with open(self._file('definitions.json'), 'w') as definitions:
            json.dump({'vhosts': [{'name': VHOST}], 'users': users,
                       'permissions': permissions,
                       'topic_permissions': topic_permissions}, definitions)
        with open(self._file('plugins'), 'w') as plugins:
            plugins.write('[].\n')
        with open(self._file('rabbitmq.conf'), 'w') as conf:
            conf.write('listeners.tcp.1 = 127.0.0.1:%d\n'
                       'vm_memory_high_watermark.absolute = 512MB\n'
                       'disk_free_limit.absolute = 50MB\n'
                       'load_definitions = %s\n'
                       'log.console.level = warning\n' %
                       (self.port, self._file('definitions.json')))
