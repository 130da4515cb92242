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

"""The process kuryr-cilium-controller with everything it talks to.

API server, RabbitMQ and Neutron are real. The nodes' agents are the client
end of rpc, called by the tests.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid

import fixtures as fixture
from oslo_config import cfg
from oslo_messaging import conffixture
from testtools import content

from kuryr_cilium.conf import rpc as rpc_conf
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import resources
from kuryr_cilium.rpc import client as rpc_client
from kuryr_cilium.rpc import server as rpc_server
from kuryr_cilium.rpc import transport as rpc_transport
from kuryr_cilium import vif
from tests import base
from tests.functional.k8s import fixtures as kube_fixtures
from tests.functional.neutron import fixtures as neutron_fixtures
from tests.functional.rpc import fixtures as rpc_fixtures

_CONF = '''
[DEFAULT]
transport_url = %(rabbit)s
debug = True
[kubernetes]
kubeconfig = %(kubeconfig)s
timeout = 4
[neutron]
auth_type = none
endpoint_override = %(neutron)s
pod_network = %(network)s
[controller]
host = %(name)s
cluster_name = %(cluster)s
facts_interval = 1
collect_interval = 10
lease_namespace = %(namespace)s
health_address = 127.0.0.1:%(port)d
[rpc]
call_timeout = %(call_timeout)d
'''

#: Seconds; a list of plugged ports counts when it comes so much later than
#: the pod was gone, and a little more.
CALL_TIMEOUT = 3

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Cluster(fixture.Fixture):
    """An empty cluster with a network, without a controller."""

    def __init__(self, test):
        super().__init__()
        self.test = test

    def _setUp(self):
        self.kube = kube_fixtures.shared()
        self.neutron = neutron_fixtures.shared()
        self.rabbit = self.useFixture(rpc_fixtures.RabbitMQ())
        self.folder = self.useFixture(fixture.TempDir()).path
        self.name = 'test-%s' % uuid.uuid4().hex[:8]
        self.network = self.neutron.create('network', name=self.name)
        for cidr in ('10.99.0.0/24', 'fd99::/64'):
            self.neutron.create(
                'subnet', network_id=self.network['id'], cidr=cidr,
                ip_version=6 if ':' in cidr else 4, enable_dhcp=False)
        self.api = self.kube.client()
        self.addCleanup(self.api.close)
        self.namespace = self.kube.namespace(self.test)
        for node in ('node-a', 'node-b'):
            self.api.create(resources.NODES.path(),
                            {'metadata': {'name': node}})
            self.addCleanup(self._delete_node, node)

    def configuration(self, name):
        """Write the configuration of a controller; returns (path, port)."""
        port = kube_fixtures.free_port()
        path = os.path.join(self.folder, name + '.conf')
        with open(path, 'w') as file:
            file.write(_CONF % {
                'rabbit': self.rabbit.url(), 'name': name, 'port': port,
                'kubeconfig': self.kube.kubeconfig, 'cluster': self.name,
                'neutron': self.neutron.url, 'network': self.network['id'],
                'namespace': self.namespace,
                'call_timeout': CALL_TIMEOUT})
        return path, port

    def controller(self, name='controller'):
        """A controller that runs."""
        return self.useFixture(Controller(self, name))

    def agent(self, host):
        """The messages of the agent of a node."""
        return self.useFixture(Agent(self, host))

    def pod_path(self, name=None):
        return resources.PODS.path(self.namespace, name)

    def create_pod(self, name, node='node-a', host_network=False, **labels):
        """Create a pod; returns its UID."""
        pod = kube_fixtures.pod(name, node, **labels)
        pod['spec']['hostNetwork'] = host_network
        return self.api.create(self.pod_path(), pod)['metadata']['uid']

    def delete_pod(self, name):
        """Delete a pod by force: there is no kubelet."""
        self.api.delete(self.pod_path(name), {'gracePeriodSeconds': 0})

    def set_phase(self, name, phase):
        """What a kubelet says of a pod."""
        self.api.merge_patch(self.pod_path(name) + '/status',
                             {'status': {'phase': phase}})

    def facts(self, name):
        """What a pod's annotation says, None if there is none."""
        annotations = self.api.get(self.pod_path(name))['metadata'].get(
            'annotations', {})
        text = annotations.get(vif.ANNOTATION)
        return vif.facts(text) if text else None

    def wait_facts(self, *names):
        """Wait until pods have their annotations; returns them."""
        for name in names:
            base.wait_until(lambda: self.facts(name), 60, 'VIF of ' + name)
        return [self.facts(name) for name in names]

    def ports(self):
        """The ids of all ports of the cluster's network."""
        return {port['id'] for port in self.neutron.call(
            'GET', 'ports?network_id=' + self.network['id'])['ports']}

    def events(self, reason):
        """The messages of Events of a reason."""
        return [event['message'] for event in self.api.get(
            resources.EVENTS.path(self.namespace))['items']
            if event['reason'] == reason]

    def _delete_node(self, name):
        try:
            self.api.delete(resources.NODES.path(name=name))
        except exceptions.KubernetesNotFound:
            return


class Controller(fixture.Fixture):
    """A running kuryr-cilium-controller."""

    def __init__(self, cluster, name):
        super().__init__()
        self._cluster = cluster
        self._name = name
        self._process = None

    def _setUp(self):
        self._path, self._port = self._cluster.configuration(self._name)
        self.start()
        self.addCleanup(self._keep_log)
        self.addCleanup(self.kill)

    def start(self):
        """Start it; it may take a while until it does anything."""
        with open(self._path + '.log', 'ab') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-W', 'ignore', '-m',
                 'kuryr_cilium.cmd.controller', '--config-file', self._path],
                cwd=_ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=dict(os.environ, TMPDIR=self._cluster.folder),
                start_new_session=True, preexec_fn=self._die_with_parent)

    def terminate(self):
        """Ask it to end; returns its exit status."""
        self._process.terminate()
        return self._process.wait(30)

    def kill(self):
        """End it and its worker without a warning."""
        if self._process.poll() is None:
            # NOTE: it is the leader of its session and its process group.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def get(self, path):
        """Ask its health server: (status, text)."""
        url = 'http://127.0.0.1:%d%s' % (self._port, path)
        try:
            with _OPENER.open(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return None, str(error)

    def wait_ready(self):
        """Wait until it is ready."""
        base.wait_until(lambda: self.get('/readyz')[0] == 200, 60,
                        lambda: '%s\n%s' % (self.get('/readyz'), self.log()))

    def metric(self, name):
        """The value of a metric."""
        for line in self.get('/metrics')[1].splitlines():
            if line.startswith(name + ' '):
                return float(line.rpartition(' ')[2])
        return None

    def log(self):
        """The end of what it has logged."""
        with open(self._path + '.log') as log:
            return log.read()[-20000:]

    def _keep_log(self):
        self._cluster.test.addDetail(self._name,
                                     content.text_content(self.log()))

    @staticmethod
    def _die_with_parent():
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Agent(fixture.Fixture):
    """The client end of a node, and the hints that it has had."""

    def __init__(self, cluster, host):
        super().__init__()
        self._cluster = cluster
        self.host = host
        self.hints = {}

    def _setUp(self):
        conf = cfg.ConfigOpts()
        rpc_conf.register_opts(conf)
        self.useFixture(conffixture.ConfFixture(conf))
        rpc_transport.set_defaults(conf, 'kuryr-cilium-agent', self.host,
                                   self.useFixture(fixture.TempDir()).path)
        conf([], project='test')
        conf.set_override('transport_url', self._cluster.rabbit.url())
        conf.set_override('call_timeout', CALL_TIMEOUT, group='rpc')
        # NOTE: groups are shared by all that register them.
        self.addCleanup(conf.clear_override, 'call_timeout', group='rpc')
        self._lock = threading.Lock()
        self._views = rpc_client.ControllerClient(conf)
        self._leader = rpc_client.LeaderClient(conf)
        self._hints = rpc_server.HintServer(conf, self.host, self._hint)
        for part in (self._views, self._leader, self._hints):
            part.start()
            self.addCleanup(part.stop)
        base.wait_until(lambda: self._hints.listening, 60, 'hint server')

    def sync(self, have=None):
        """The whole view, None if no controller gives one."""
        try:
            result = self._views.sync_all(self.host, have or {})
        except exceptions.RPCFailed:
            return None
        return result if result.synced else None

    def wait_view(self, condition, message):
        """Wait for a view; returns it."""
        def ask():
            view = self.sync()
            return view if view is not None and condition(view) else None
        return base.wait_until(ask, 60, message, interval=0.2)

    def report(self, plugged=None, released=()):
        """Report to the leader until it takes it."""
        def tell():
            try:
                if plugged is not None:
                    self._leader.plugged(self.host, plugged)
                if released:
                    self._leader.released(self.host, released)
            except exceptions.RPCFailed:
                return False
            return True
        base.wait_until(tell, 60, 'a leader takes reports', interval=0.2)

    def _hint(self, epoch, objects):
        with self._lock:
            self.hints.update(objects)
