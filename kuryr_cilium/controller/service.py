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

"""The controller: Kubernetes and Neutron on one side, agents on the other.

Every replica follows the API and answers agents. The one that holds the
Lease makes and deletes ports (see term.py). Each part has a thread of its
own and gets over it when what it talks to is away; readiness says what is
away, and only a thread that has died says that this process does not live.
"""

import os
import stat
import tempfile
import threading
import uuid

from oslo_log import log as logging
from oslo_service import service

from kuryr_cilium.controller import conditions
from kuryr_cilium.controller import hints
from kuryr_cilium.controller import nodes
from kuryr_cilium.controller import pods
from kuryr_cilium.controller import poller
from kuryr_cilium.controller import problems
from kuryr_cilium.controller import services
from kuryr_cilium.controller import term
from kuryr_cilium.controller import views
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import client as k8s_client
from kuryr_cilium.k8s import events
from kuryr_cilium.k8s import leader
from kuryr_cilium.k8s import reflector
from kuryr_cilium.k8s import resources
from kuryr_cilium import memory
from kuryr_cilium.monitor import health
from kuryr_cilium.neutron import client as neutron_client
from kuryr_cilium.neutron import facts as neutron_facts
from kuryr_cilium.neutron import ports as neutron_ports
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import world
from kuryr_cilium.rpc import client as rpc_client
from kuryr_cilium.rpc import server as rpc_server
from kuryr_cilium.rpc import sync as rpc_sync
from kuryr_cilium.rpc import transport as rpc_transport

LOG = logging.getLogger(__name__)

NAME = 'kuryr-cilium-controller'

#: Seconds that a replica without the API server still answers agents: the
#: time that a watch takes to come back on a healthy server.
STALE_SECONDS = 5.0
#: Seconds to wait for the end of what a leader does, before others may.
_STOP_SECONDS = 10.0


class Controller:
    """The parts and how they are joined. start() and stop() once each.

    :param conf: the configuration.
    :param ports: a neutron.ports.PortManager.
    :param fastpath: callable that returns the ids of the ports on which
        Neutron has nothing to enforce.
    """

    def __init__(self, conf, ports, fastpath):
        self._conf = conf
        self._ports = ports
        self._fastpath = fastpath
        self._api = k8s_client.Client.from_conf(conf, NAME)
        self._pods = pods.PodTable()
        self._nodes = nodes.NodeTable()
        self._lock = threading.Lock()
        self._term = None
        self._leader_server = None
        self._started = []
        self._standing = threading.Event()

        host = conf.controller.host
        self._events = events.Recorder(self._api, NAME, host)
        self._elector = leader.Elector(
            self._api, conf.controller.lease_namespace,
            conf.controller.lease_name,
            '%s_%s' % (host, uuid.uuid4().hex[:8]),
            self._lead, self._lead_no_more)
        self._views = views.Views(
            self._changed, lambda: self._elector.epoch, self._current,
            kinds.Options(tuple(conf.policy.exempt_namespaces),
                          conf.policy.allow_egress_to_own_node))
        self._problems = problems.Problems(self._all_problems,
                                           self._events.event)
        self._conditions = conditions.Conditions(
            self._api, self._views.problems, self._elector.leads)
        self._services = services.Services(
            self._services_changed, lambda: self._elector.epoch,
            self._current, self._views.vif)
        self._answers = Answers(conf, self._views.view, self._services.view)
        self._pager = self._answers.policy
        self._sender = rpc_client.HintSender(conf)
        self._server = rpc_server.ControllerServer(conf, self._answers)
        self._hints = hints.Hints(self._send, self._pieces,
                                  self._views.uses, self._pager.digest,
                                  self._nodes.listens, self._review)
        self._poller = poller.Poller(
            'neutron', self._ask_facts, conf.controller.facts_interval)
        self._reflectors = [
            self._reflector(resources.NAMESPACES, self._views.namespace),
            self._reflector(resources.NODES, self._node_changed),
            self._reflector(resources.SERVICES,
                            self._problems.handler(resources.SERVICES),
                            self._views.service, self._services.service),
            self._reflector(resources.ENDPOINT_SLICES, self._views.slice,
                            self._services.slice),
            self._reflector(
                resources.NETWORK_POLICIES,
                self._policy_changed(resources.NETWORK_POLICIES)),
            *(self._reflector(
                resource, self._policy_changed(
                    resource, self._conditions.handler(resource)),
                optional=True) for resource in resources.CUSTOM_POLICIES),
            self._reflector(
                resources.PODS, self._problems.handler(resources.PODS),
                self._pod_changed),
        ]
        self._health = health.HealthServer(
            conf.controller.health_address, self.checks(), self.live)

    def start(self):
        """Start all parts; what has to wait does so in its own thread."""
        # NOTE: first, as it is what may fail: another process may have the
        # port.
        for part in (self._health, self._events, self._sender, self._server,
                     self._hints, self._poller, self._conditions,
                     *self._reflectors):
            part.start()
            self._started.append(part)

    def stop(self):
        """Stop all parts, within seconds."""
        # The Lease first, so that another replica goes on meanwhile.
        self._elector.stop(_STOP_SECONDS)
        for part in reversed(self._started):
            part.stop()
        self._api.close()

    def checks(self):
        """What readiness depends on: {name: callable}."""
        found = {
            'lease': self._elector.check,
            'neutron': self._poller.check,
            'rabbitmq': self._check_rabbitmq,
        }
        for part in self._reflectors:
            found[part.resource.plural] = part.check
        return found

    def live(self):
        """None as long as every thread runs, else which does not."""
        parts = [(type(part).__name__, part) for part in self._started
                 if hasattr(part, 'alive')]
        with self._lock:
            if self._standing.is_set():
                parts.append(('Elector', self._elector))
            if self._term is not None:
                parts.append(('Term', self._term))
        dead = [name for name, part in parts if not part.alive()]
        return '%s has died' % ', '.join(dead) if dead else None

    def synced(self):
        """Whether all kinds were listed."""
        return all(part.synced.is_set() for part in self._reflectors)

    def _reflector(self, resource, *handlers, optional=False):
        def handle(change, obj):
            for handler in handlers:
                handler(change, obj)
        return reflector.Reflector(self._api, resource, handle,
                                   on_synced=self._listed, optional=optional)

    def _listed(self):
        """A kind was listed; after the last one stand for election.

        A leader that does not know all pods would take ports from those
        that it does not know.
        """
        with self._lock:
            if not self.synced() or self._standing.is_set():
                return
            self._standing.set()
        memory.settle()
        LOG.info('Pods, namespaces, nodes, services and policies are listed')
        self._elector.start()
        self._hints.wake()

    def _current(self):
        return all(part.current(STALE_SECONDS) for part in self._reflectors)

    def _changed(self, changes):
        # Before all is listed no agent gets anything, so none is told.
        if self._standing.is_set():
            self._hints.add(changes)

    def _all_problems(self):
        """What can't be taken as it is: UID -> why."""
        found = dict(self._views.problems())
        for uid, problem in self._services.problems().items():
            found[uid] = [problem]
        return found

    def _services_changed(self, keys):
        self._changed(world.Changes(pieces=keys))

    def _pieces(self, keys):
        """What is sent under keys, of policy and of services."""
        others = [key for key in keys
                  if key.startswith(('service:', 'node:'))]
        return {**self._services.pieces(others),
                **self._views.pieces(set(keys).difference(others))}

    def _send(self, host, objects):
        self._sender.send(host, self._elector.epoch, objects)

    def _pod_changed(self, change, obj):
        uid = self._pods.update(change, obj)
        self._views.pod(change, obj)
        self._services.pod(change, obj)
        if uid is None:
            return
        with self._lock:
            leading = self._term
        if leading is not None:
            leading.pod_changed(uid)

    def _policy_changed(self, resource, *afterwards):
        """A handler for policies of a kind.

        :param afterwards: handlers that say what became of a policy.
        """
        remember = self._problems.handler(resource)
        apply = self._views.policy(resource.kind)

        def handle(change, obj):
            remember(change, obj)
            try:
                apply(change, obj)
            finally:
                for handler in afterwards:
                    handler(change, obj)
                self._hints.wake()
        return handle

    def _node_changed(self, change, obj):
        self._nodes.update(change, obj)
        self._views.node(change, obj)
        self._services.node(change, obj)
        with self._lock:
            leading = self._term
        if leading is not None and change == reflector.DELETED:
            leading.node_gone(obj['metadata']['name'])

    def _review(self):
        if self._elector.leads():
            self._problems.review()

    def _ask_facts(self):
        self._views.set_fastpath(self._fastpath())

    def _check_rabbitmq(self):
        return None if self._server.listening else 'not connected'

    def _lead(self, epoch):
        begun = term.Term(self._conf, self._api, self._pods, self._nodes,
                          self._ports, self._events.event,
                          self._elector.leads, self._poller.wake)
        server = rpc_server.LeaderServer(self._conf, begun)
        with self._lock:
            self._term = begun
            self._leader_server = server
        begun.start()
        server.start()
        self._problems.forget()
        self._hints.wake()
        self._conditions.wake()

    def _lead_no_more(self):
        with self._lock:
            ended, self._term = self._term, None
            server, self._leader_server = self._leader_server, None
        if server is not None:
            server.stop()
        if ended is not None:
            ended.stop()


class Answers:
    """What agents may ask any replica.

    :param policy: as rpc.sync.Pager's view.
    :param services: the same, of services.
    """

    def __init__(self, conf, policy, services):
        self.policy, self._services = (
            rpc_sync.Pager(view, conf.rpc.page_objects, conf.rpc.page_bytes)
            for view in (policy, services))

    def sync(self, ctxt, host, have=None, cursor=None):
        """Answer what policy a node needs."""
        return self.policy.sync(ctxt, host, have, cursor)

    def services(self, ctxt, host, have=None, cursor=None, keys=None):
        """Answer what services there are."""
        return self._services.sync(ctxt, host, have, cursor, keys)


def _lock_folder(host):
    """A folder of this replica's own, the same one after a restart.

    :raises: exceptions.FolderNotOurs if somebody else has made it.
    """
    path = os.path.join(tempfile.gettempdir(), '%s-%d-%s' % (
        NAME, os.getuid(), host.replace('/', '_')))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        LOG.debug('%s is there from an earlier start', path)
    found = os.lstat(path)
    if (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()
            or found.st_mode & 0o022):
        raise exceptions.FolderNotOurs(path=path)
    return path


class ControllerService(service.Service):
    """The controller as a service of oslo.service.

    :param conf: the configuration.
    """

    def __init__(self, conf):
        super().__init__()
        self._conf = conf
        self._controller = None
        self._ended = None

    def start(self):
        # NOTE: in the worker process: neither threads nor connections
        # survive the fork.
        self._ended = threading.Event()
        memory.tune()
        host = self._conf.controller.host
        rpc_transport.set_defaults(self._conf, NAME, host,
                                   _lock_folder(host))
        neutron = neutron_client.Client(self._conf)
        self._controller = Controller(
            self._conf,
            neutron_ports.PortManager(self._conf, neutron,
                                      self._conf.controller.cluster_name),
            neutron_facts.Facts(neutron).unrestricted)
        self._controller.start()

    def wait(self):
        self._ended.wait()

    def stop(self, graceful=False):
        if self._ended is None or self._ended.is_set():
            return
        if self._controller is not None:
            self._controller.stop()
        super().stop(graceful)
        self._ended.set()
