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

"""The agent: its parts, the order in which they start and stop.

What is in force is pinned in the kernel and outlives the agent. So a start
first takes over, then enforces the view on disk, and only then listens to
anybody; a stop only ends threads.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import threading
import time

from oslo_log import log as logging
from oslo_service import service
import prometheus_client
from stevedore import driver as stevedore_driver

from kuryr_cilium.agent import api
from kuryr_cilium.agent import cni_server
from kuryr_cilium.agent import describe
from kuryr_cilium.agent import healthports
from kuryr_cilium.agent import plug
from kuryr_cilium.agent import pods
from kuryr_cilium.agent import probe
from kuryr_cilium.agent import report
from kuryr_cilium.agent import services
from kuryr_cilium.agent import sockets
from kuryr_cilium.agent import store
from kuryr_cilium.agent import sweep
from kuryr_cilium.agent import sync
from kuryr_cilium.agent import trace
from kuryr_cilium.agent import viewfile
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import client as k8s_client
from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.linux import netlink
from kuryr_cilium import memory
from kuryr_cilium.monitor import events
from kuryr_cilium.monitor import health
from kuryr_cilium.monitor import metrics
from kuryr_cilium.rpc import client as rpc_client
from kuryr_cilium.rpc import server as rpc_server
from kuryr_cilium.rpc import transport

LOG = logging.getLogger(__name__)

PROCESS = 'kuryr-cilium-agent'

#: Seconds to wait for an agent on this node that is just stopping.
_PREDECESSOR = 20.0


class AgentService(service.Service):
    """kuryr-cilium-agent as oslo.service runs it.

    :param conf: a cfg.ConfigOpts. Nothing else is kept until start():
        oslo.service forks in between.
    """

    def __init__(self, conf):
        super().__init__()
        self._conf = conf
        self._stopped = None
        self._undo = None

    def start(self):
        """Start everything, or raise with nothing left running."""
        super().start()
        memory.tune()
        self._stopped = threading.Event()
        self._started = time.time()
        self._starting = 'taking over'
        with contextlib.ExitStack() as undo:
            self._start(undo)
            self._undo = undo.pop_all()
        self._starting = None
        LOG.info('Agent of node %s is started, with %d endpoints.',
                 self._conf.agent.host, len(self._store.list()))

    def wait(self):
        self._stopped.wait()

    def stop(self, graceful=False):
        """End the threads; what is in force stays in force."""
        LOG.info('Stopping.')
        super().stop(graceful)
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.close()
        if self._stopped is not None:
            self._stopped.set()

    def _start(self, undo):
        conf = self._conf
        state = pathlib.Path(conf.agent.state_dir)
        run = pathlib.Path(conf.agent.run_dir)
        lock = sockets.InstanceLock(run / 'agent.lock')
        lock.acquire(_PREDECESSOR)
        undo.callback(lock.release)
        self._make_parts(conf, state, run)
        drops = metrics.DropsCollector(self._drops)
        prometheus_client.REGISTRY.register(drops)
        undo.callback(prometheus_client.REGISTRY.unregister, drops)
        self._begin(undo, self._health)
        self._datapath.start(sorted(netlink.addresses()), node_ips(conf))
        undo.callback(self._monitor.join, 5)
        undo.callback(self._datapath.stop)
        undo.callback(self._monitor.stop)
        self._starting = 'sweeping'
        self._sweep_first()
        self._starting = 'bringing the view on disk in force'
        self._views.load()
        if self._services is not None:
            self._services.load()
        else:
            # What was in force before services were switched off.
            self._datapath.serve({}, lb_model.Node(self._conf.agent.host),
                                 frozenset())
        self._plugger.resume()
        self._monitor.start()
        # NOTE: what is called last here is the first to stop: no request and
        # no hint comes in any more, and calls to the controller end, before
        # the threads that make them are waited for.
        parts = (self._controller, self._leader, self._cni, self._api,
                 self._views, self._health_ports, self._services, self._pods,
                 self._reporter, self._sweeper, self._hints)
        for part in filter(None, parts):
            self._begin(undo, part)
        for part in (self._controller, self._leader, self._cni):
            undo.callback(part.stop)

    def _make_parts(self, conf, state, run):
        host = conf.agent.host
        transport.set_defaults(conf, PROCESS, host, str(run / 'locks'))
        self._store = store.Store(
            state / 'endpoints',
            lambda aside: metrics.STORE_CORRUPT.inc())
        self._datapath = load_driver('datapath', conf.datapath.driver, conf)
        self._binding = load_driver('binding', conf.binding.driver, conf)
        self._controller = rpc_client.ControllerClient(conf)
        self._leader = rpc_client.LeaderClient(conf)
        self._views = sync.Views(
            host, self._controller, self._datapath,
            viewfile.ViewFile(state / 'view.json'),
            conf.agent.resync_interval, lambda: self._plugger.resume(),
            lambda: self._reporter.list_soon())
        self._health_ports = healthports.HealthPorts(host) if (
            conf.services.enabled and conf.services.replace_kube_proxy
        ) else None
        self._services = services.Services(
            host, self._controller, self._datapath,
            viewfile.ViewFile(state / 'services.json'),
            conf.agent.resync_interval,
            self._health_ports) if conf.services.enabled else None
        self._hints = rpc_server.HintServer(conf, host, self._hinted)
        self._plugger = plug.Plugger(
            self._binding, self._datapath, self._store, self._views,
            node_ips(conf))
        self._pods = pods.Pods(
            k8s_client.Client.from_conf(conf, PROCESS), host)
        self._reporter = report.Reporter(
            host, self._leader, self._plugged,
            lambda vif_id: bool(self._store.by_vif(vif_id)),
            conf.agent.report_interval)
        self._sweeper = sweep.Sweeper(
            self._plugger, self._datapath, self._store,
            self._reporter.released, conf.agent.sweep_interval)
        self._monitor = events.Monitor(
            self._datapath, lambda: self._views.current,
            conf.monitor.ring_size, conf.monitor.log_drops,
            conf.monitor.log_rate, conf.monitor.log_burst)
        self._cni = cni_server.CNIServer(
            str(run / 'cni.sock'), self._plugger, self._pods, self._views,
            self._store, self._reporter.released, self._cni_status,
            conf.cni.add_timeout, conf.cni.max_adds, conf.cni.max_requests)
        self._api = api.APIServer(str(run / 'api.sock'), {
            '/v1/status': self._status,
            '/v1/endpoints': lambda: describe.endpoints(
                self._store.list(), self._views.current,
                self._views.denied, self._datapath.connections()),
            '/v1/policies': lambda: describe.policies(self._views.current),
            '/v1/services': self._served,
            '/v1/drops': lambda: dict(self._datapath.drops()),
            '/v1/rulesets': lambda: [
                dataclasses.asdict(found)
                for found in self._datapath.entries()],
        }, self._monitor.ring, {
            '/v1/trace': lambda query: trace.answer(self._datapath, query),
            '/v1/backends': lambda query: trace.backends(
                self._datapath, query),
        })
        self._health = health.HealthServer(
            conf.agent.health_address, self._checks(), self._live)

    def _hinted(self, epoch, changed):
        self._views.hint(epoch, changed)
        if self._services is not None:
            self._services.hint(epoch, changed)

    def _served(self):
        if self._services is None:
            return describe.services(None, None, {}, {})
        return describe.services(
            self._services.current(), self._services.trouble(),
            self._services.refused(), self._datapath.conflicts(),
            self._health_ports.problems() if self._health_ports else {})

    def _begin(self, undo, part):
        part.start()
        undo.callback(part.stop)

    def _sweep_first(self):
        try:
            self._sweeper.first()
        except exceptions.KuryrCiliumException as error:
            # NOTE: Open vSwitch may be away; what is in force is not to
            # wait for it. The next sweep does what is left.
            LOG.warning('The first sweep did not end: %s', error)

    def _plugged(self):
        """Ids of the Neutron ports that are here, by record or in fact."""
        return {*self._plugger.plugged(), *self._binding.plugged()}

    def _drops(self):
        return self._datapath.drops() if self._starting is None else {}

    def _checks(self):
        """What readiness depends on."""
        connection = self._conf.binding.ovsdb_connection
        return {
            'agent': lambda: self._starting and 'it is ' + self._starting,
            'openvswitch': lambda: probe.ovsdb(connection),
            'kubernetes': self._pods.check,
            'policy': self._views.trouble,
            **({'services': self._services.trouble} if self._services
               else {}),
            'messages': lambda: None if self._hints.listening else
            'no connection to RabbitMQ: see [DEFAULT] transport_url',
            'reports': self._reporter.check,
        }

    def _live(self):
        """None while every thread runs. Nothing beyond this process."""
        if self._starting is not None:
            return None
        parts = {'cni': self._cni, 'views': self._views, 'pods': self._pods,
                 'reports': self._reporter, 'sweeps': self._sweeper,
                 'monitor': self._monitor, 'api': self._api}
        if self._services is not None:
            parts['services'] = self._services
        if self._health_ports is not None:
            parts['health ports'] = self._health_ports
        dead = [name for name, part in parts.items() if not part.is_alive()]
        return 'ended: ' + ', '.join(dead) if dead else None

    def _cni_status(self):
        """Answer a CNI STATUS: can pods be plugged on this node at all?

        Kubelet makes the node NotReady if not, and its pods are evicted in
        time. So a controller or an API server that is away doesn't count,
        once this node has a view: pods wait for them.
        """
        refused = self._views.refused()
        if refused:
            raise exceptions.PluginNotAvailableLimited(reason=refused)
        trouble = probe.ovsdb(self._conf.binding.ovsdb_connection)
        if trouble:
            raise exceptions.PluginNotAvailable(reason=trouble)
        if self._views.current is None:
            raise exceptions.PluginNotAvailable(
                reason='This node has no policy view yet: %s' %
                       self._views.trouble())

    def _status(self):
        view = self._views.current
        problems = self._health.problems()
        records = self._store.list()
        return {
            'host': self._conf.agent.host,
            'version': version(),
            'pid': os.getpid(),
            'uptime_seconds': round(time.time() - self._started, 1),
            'ready': not problems,
            'checks': {name: problems.get(name, 'ok')
                       for name in self._checks()},
            'view': {
                'epoch': view.epoch if view else None,
                'age_seconds': round(self._views.age(), 1),
                'confirmed': self._views.confirmed(),
                'endpoints': len(view.endpoints) if view else 0,
                'rulesets': len(view.rulesets) if view else 0,
                'selectors': len(view.selectors) if view else 0,
            },
            'endpoints': {
                'ready': sum(r.state == store.READY for r in records),
                'plugging': sum(r.state == store.PLUGGING for r in records),
                'denied': len(self._views.denied),
            },
            'releases_waiting': self._reporter.waiting(),
        }


def load_driver(kind: str, name: str, conf):
    """A driver of an entry point group of kuryr-cilium.

    :param kind: 'binding' or 'datapath'.
    """
    return stevedore_driver.DriverManager(
        'kuryr_cilium.' + kind, name, invoke_on_load=True,
        invoke_args=(conf,)).driver


def node_ips(conf) -> tuple[str, ...]:
    """The addresses from which this node talks to its pods."""
    if conf.agent.node_ips:
        return tuple(str(address) for address in conf.agent.node_ips)
    found = (netlink.default_source(family) for family in (4, 6))
    return tuple(address for address in found if address)


def version() -> str:
    try:
        return importlib.metadata.version('kuryr-cilium')
    except importlib.metadata.PackageNotFoundError:
        return 'unknown'
