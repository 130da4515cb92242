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

"""A real Neutron (ML2/OVN on MariaDB, under uWSGI) on a loopback port.

The OVN databases are real; in place of ovn-controllers there are rows that
say that they live: nothing of this is about packets. Neutron itself and its
empty database are what "tools/lab/lab build" has made.
"""

import atexit
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

from tests import base

# NOTE: taken at import: each test gets a HOME and a TMPDIR of its own.
_CACHE = os.environ.get('KURYR_CILIUM_CACHE',
                        os.path.expanduser('~/.cache/kuryr-cilium'))
_TMP = tempfile.gettempdir()
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

_NEUTRON_CONF = '''
[DEFAULT]
core_plugin = ml2
service_plugins = qos
auth_strategy = noauth
api_paste_config = {venv}/etc/neutron/api-paste.ini
state_path = {path}
transport_url = fake:///
notify_nova_on_port_status_changes = False
notify_nova_on_port_data_changes = False
agent_down_time = 86400
[database]
connection = mysql+pymysql://root@localhost/neutron?unix_socket={path}/my.sock
[oslo_concurrency]
lock_path = {path}/lock
[oslo_messaging_notifications]
driver = noop
[quotas]
quota_port = -1
quota_network = -1
quota_subnet = -1
quota_security_group = -1
quota_security_group_rule = -1
[ml2]
mechanism_drivers = ovn
type_drivers = geneve,local
project_network_types = geneve
extension_drivers = port_security,qos
overlay_ip_version = 4
[ml2_type_geneve]
vni_ranges = 1:65535
max_header_size = 38
[ovn]
ovn_nb_connection = unix:{path}/nb.sock
ovn_sb_connection = unix:{path}/sb.sock
'''

_UWSGI_INI = '''
[uwsgi]
http-socket = 127.0.0.1:{port}
module = neutron.wsgi.api:application
master = true
lazy-apps = true
enable-threads = true
processes = 1
threads = 4
buffer-size = 65535
add-header = Connection: close
die-on-term = true
need-app = true
disable-logging = true
'''

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Neutron:
    """One Neutron server with chassis node-a and node-b."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix='kuryr-cilium-neutron-',
                                     dir=_TMP)
        with socket.create_server(('127.0.0.1', 0)) as server:
            self._port = server.getsockname()[1]
        self.url = 'http://127.0.0.1:%d' % self._port
        self._venv = os.path.join(_CACHE, 'venv-neutron')
        self._processes = {}
        self._chassis = 0

    def start(self):
        """Start everything; take up to a minute."""
        template = os.path.join(_CACHE, 'mysql-template')
        for needed in (template, self._venv):
            if not os.path.isdir(needed):
                raise RuntimeError('%s is missing: run "tools/lab/lab build"'
                                   % needed)
        try:
            for folder in ('lock', 'scratch'):
                os.mkdir(self._file(folder))
            subprocess.run(['cp', '-a', '--reflink=auto', template,
                            self._file('data')], check=True)
            self._start('mariadbd', [
                'mariadbd', '--no-defaults', '--user=root',
                '--datadir=' + self._file('data'),
                '--tmpdir=' + self._file('scratch'),
                '--socket=' + self._file('my.sock'), '--skip-networking',
                '--skip-grant-tables', '--performance-schema=OFF',
                '--innodb-flush-log-at-trx-commit=0', '--sync-binlog=0',
                '--innodb-buffer-pool-size=64M',
                '--innodb-log-file-size=32M'])
            for name in ('nb', 'sb'):
                self._start_ovn(name)
            for host in ('node-a', 'node-b'):
                self.add_chassis(host)
            base.wait_until(lambda: os.path.exists(self._file('my.sock')),
                            60, lambda: self._log('mariadbd'), 0.1)
            self.start_server()
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Stop everything and remove every file."""
        for name in reversed(list(self._processes)):
            self._end(name)
        shutil.rmtree(self.path, ignore_errors=True)

    def start_server(self):
        """Start Neutron itself and wait until it answers."""
        for name, text in (('neutron.conf', _NEUTRON_CONF),
                           ('uwsgi.ini', _UWSGI_INI)):
            with open(self._file(name), 'w') as conf:
                conf.write(text.format(venv=self._venv, path=self.path,
                                       port=self._port))
        self._start('neutron', [
            os.path.join(self._venv, 'bin', 'uwsgi'), '--ini',
            self._file('uwsgi.ini')], OS_NEUTRON_CONFIG_DIR=self.path,
            OS_NEUTRON_CONFIG_FILES='neutron.conf', PYTHONWARNINGS='ignore',
            TMPDIR=self._file('scratch'))
        base.wait_until(self._answers, 120, lambda: self._log('neutron'),
                        0.2)

    def stop_server(self):
        """Stop Neutron itself."""
        self._end('neutron')

    def call(self, method, path, body=None):
        """One request; the answer as an object."""
        request = urllib.request.Request(
            self.url + '/v2.0/' + path, method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={'Content-Type': 'application/json'})
        try:
            with _OPENER.open(request, timeout=60) as answer:
                data = answer.read()
        except urllib.error.HTTPError as error:
            error.msg = '%s %s: %s' % (method, path, error.read().decode())
            raise
        return json.loads(data) if data else None

    def create(self, kind, **fields):
        """Create an object, as create('network', name='pods')."""
        path = {'policy': 'qos/policies'}.get(kind, kind.replace(
            '_', '-') + 's')
        return self.call('POST', path, {kind: fields})[kind]

    def add_chassis(self, host, datapath='netdev'):
        """Let there be a live ovn-controller of a host."""
        self._chassis += 1
        self._ctl('sb', '--id=@encap', 'create', 'Encap', 'type=geneve',
                  'ip=127.0.0.%d' % self._chassis,
                  'chassis_name=' + host, '--',
                  '--id=@chassis', 'create', 'Chassis', 'name=' + host,
                  'hostname=' + host, 'encaps=@encap',
                  'other_config:datapath-type=' + datapath, '--',
                  'create', 'Chassis_Private', 'name=' + host,
                  'chassis=@chassis')

    def remove_chassis(self, host):
        """Let there be no ovn-controller of a host any more."""
        self._ctl('sb', 'chassis-del', host, '--', 'destroy',
                  'Chassis_Private', host)

    def _file(self, name):
        return os.path.join(self.path, name)

    def _start_ovn(self, name):
        subprocess.run(['ovsdb-tool', 'create', self._file(name + '.db'),
                        '/usr/share/ovn/ovn-%s.ovsschema' % name],
                       check=True)
        self._start('ovn-' + name, [
            'ovsdb-server', self._file(name + '.db'),
            '--remote=punix:' + self._file(name + '.sock'),
            '--unixctl=' + self._file(name + '.ctl')])
        base.wait_until(lambda: os.path.exists(self._file(name + '.sock')),
                        30, lambda: self._log('ovn-' + name), 0.1)
        self._ctl(name, 'init')

    def _ctl(self, name, *arguments):
        subprocess.run(
            ['ovn-%sctl' % name, '--db=unix:' + self._file(name + '.sock'),
             *arguments], check=True, capture_output=True, timeout=60,
            env=dict(os.environ, OVN_RUNDIR=self.path))

    def _start(self, name, command, **environ):
        with open(self._file(name + '.log'), 'ab') as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=self.path, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent,
                env=dict(os.environ, **environ))

    def _end(self, name):
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self):
        if self._processes['neutron'].poll() is not None:
            raise AssertionError('Neutron ended: %s' % self._log('neutron'))
        try:
            return self.call('GET', 'networks') is not None
        except (urllib.error.URLError, OSError):
            return False

    def _log(self, name):
        with open(self._file(name + '.log'), errors='replace') as log:
            return log.read()[-4000:]


_shared = None


def shared():
    """A Neutron that every test of a process shares."""
    global _shared
    if _shared is None:
        neutron = Neutron()
        neutron.start()
        atexit.register(neutron.stop)
        _shared = neutron
    return _shared
