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

"""A node of a test's own: its network namespace and its Open vSwitch."""

import ctypes
import itertools
import json
import os
import signal
import subprocess
import threading

import fixtures
from oslo_config import cfg
from vif_plug_ovs.ovsdb import impl_idl

from kuryr_cilium.binding import ovsdb
from kuryr_cilium.conf import binding as binding_conf
from tests import base

#: The datapath of Open vSwitch's bridges: 'netdev' is in ovs-vswitchd,
#: 'system' in the kernel, which has to have it (tools/vm).
DATAPATH = os.environ.get('KURYR_CILIUM_TEST_DATAPATH') or 'netdev'

_CLONE_NEWNET = 0x40000000
_SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema'

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


def run(*command, netns=None, check=True):
    """What a command prints."""
    if netns:
        command = ('ip', 'netns', 'exec', netns.name) + command
    done = subprocess.run(command, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise AssertionError('%s: %d %s' % (command, done.returncode,
                                            done.stderr))
    return done.stdout


def counters(link):
    """What the kernel has counted of a link of the node."""
    found, = json.loads(run('ip', '-s', '-j', 'link', 'show', 'dev', link))
    return found['stats64']


class Namespace(fixtures.Fixture):
    """A network namespace; ``name`` and ``path``."""

    def __init__(self, kind='pod'):
        self.name = 'kca-%d-%d-%s' % (os.getpid(), next(_numbers), kind)
        self.path = '/run/netns/' + self.name

    def _setUp(self):
        run('ip', 'netns', 'add', self.name)
        self.addCleanup(self.remove)

    def remove(self):
        run('ip', 'netns', 'del', self.name, check=False)


class Node(Namespace):
    """A network namespace that the test itself works in."""

    def __init__(self):
        super().__init__('node')

    def _setUp(self):
        super()._setUp()
        home = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
        self.addCleanup(os.close, home)
        node = os.open(self.path, os.O_RDONLY)
        try:
            _enter(node)
        finally:
            os.close(node)
        self.addCleanup(_enter, home)
        run('ip', 'link', 'set', 'lo', 'up')


class OpenVSwitch(fixtures.Fixture):
    """ovsdb-server and ovs-vswitchd, with br-int."""

    def _setUp(self):
        self.folder = self.useFixture(fixtures.TempDir()).path
        self.remote = 'unix:' + self.folder + '/db.sock'
        self.environment = dict(os.environ, OVS_RUNDIR=self.folder,
                                OVS_LOGDIR=self.folder,
                                OVS_DBDIR=self.folder)
        run('ovsdb-tool', 'create', self.folder + '/conf.db', _SCHEMA)
        self._processes = {}
        self.addCleanup(self.stop_all)
        self.start_database()
        self.vsctl('--no-wait', 'init')
        self.start_vswitchd()
        self.vsctl('add-br', 'br-int', '--', 'set', 'Bridge', 'br-int',
                   'datapath_type=' + DATAPATH, 'fail_mode=secure')

    def start_database(self):
        self._start('ovsdb-server', self.folder + '/conf.db',
                    '--remote=p' + self.remote)
        base.wait_until(lambda: os.path.exists(self.folder + '/db.sock'),
                        message='ovsdb-server listens')

    def start_vswitchd(self):
        if DATAPATH == 'system':
            run('modprobe', 'openvswitch')
            # Started earlier it makes no thread that serves the kernel.
            base.wait_until(lambda: _uptime() > 11, 20)
        self._start('ovs-vswitchd', self.remote)

    def stop(self, name, number=signal.SIGKILL):
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait()

    def stop_database(self):
        self.stop('ovsdb-server')
        os.unlink(self.folder + '/db.sock')

    def stop_all(self):
        # os-vif keeps one connection a process.
        connection = impl_idl.NeutronOvsdbIdl._ovsdb_connection
        if connection is not None:
            connection.stop(10)
            impl_idl.NeutronOvsdbIdl._ovsdb_connection = None
        for name in list(reversed(self._processes)):
            self.stop(name, signal.SIGTERM)

    def vsctl(self, *arguments):
        return run('ovs-vsctl', '--timeout=%d' % base.scaled(20),
                   '--db=' + self.remote, *arguments).strip()

    def will_install(self, tap):
        """Play ovn-controller for one port, once it is plugged."""
        process = subprocess.Popen([
            'ovs-vsctl', '--timeout=%d' % base.scaled(30),
            '--db=' + self.remote, 'wait-until', 'Interface', tap,
            'ofport>0', '--', 'set', 'Interface', tap,
            'external_ids:ovn-installed=true'])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def conf(self, timeout=10):
        """A configuration that leads to this switch."""
        conf = cfg.ConfigOpts()
        binding_conf.register_opts(conf)
        conf.set_override('ovsdb_connection', self.remote, 'binding')
        conf.set_override('ovsdb_timeout', int(base.scaled(timeout)),
                          'binding')
        return conf

    def _start(self, name, *arguments):
        log = open('%s/%s.out' % (self.folder, name), 'ab')
        with log:
            self._processes[name] = subprocess.Popen(
                [name, *arguments, '--pidfile', '--no-chdir',
                 '--log-file=%s/%s.log' % (self.folder, name), '-vconsole:off'
                 ], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)


class Controller(fixtures.Fixture):
    """Plays ovn-controller: marks each new port of Neutron's as installed.

    :ivar idle: while set it does nothing.
    """

    def __init__(self, openvswitch):
        self._openvswitch = openvswitch
        self._switch = ovsdb.Switch(openvswitch.remote,
                                    int(base.scaled(10)))
        self._stop = threading.Event()
        self.idle = threading.Event()

    def _setUp(self):
        self._changed = self._switch._connected().idl.changed
        thread = threading.Thread(target=self._run, name='played-ovn',
                                  daemon=True)
        thread.start()
        self.addCleanup(self._switch.close)
        self.addCleanup(thread.join, 30)
        self.addCleanup(self._stop.set)

    def _run(self):
        while not self._stop.is_set():
            with self._changed:
                names = self._uninstalled()
                if not names:
                    self._changed.wait(0.2)
            for name in names:
                run('ovs-vsctl', '--timeout=%d' % base.scaled(5),
                    '--no-wait', '--db=' + self._openvswitch.remote,
                    '--if-exists', 'set', 'Interface', name,
                    'external_ids:ovn-installed=true', check=False)

    def _uninstalled(self):
        if self.idle.is_set():
            return []
        return [port.name for port in self._switch.ports()
                if port.iface_id and (port.ofport or -1) > 0 and
                not port.installed]


def _uptime():
    with open('/proc/uptime') as file:
        return float(file.read().split()[0])


def _enter(fd):
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), 'setns')
