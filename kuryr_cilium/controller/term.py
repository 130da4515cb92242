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

"""All that a leader does, for as long as it leads.

A term is made new each time: nothing of an earlier one is believed.
"""

import functools
import threading
from typing import Callable

from oslo_log import log as logging
import prometheus_client

from kuryr_cilium.controller import nodes
from kuryr_cilium.controller import pods
from kuryr_cilium.controller import provision
from kuryr_cilium.controller import releases
from kuryr_cilium.controller import workers
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import backoff
from kuryr_cilium.k8s import client as k8s_client
from kuryr_cilium.neutron import ports as neutron_ports

LOG = logging.getLogger(__name__)

_STATES = (releases.ASSIGNED, releases.RELEASING, releases.FREE)
#: Threads that delete ports.
_DELETERS = 2
#: Seconds that a list of plugged ports may be late beyond its time to live.
_LATE = 5
#: Seconds to wait for threads when the term ends. What they do in Neutron
#: then is found by the next leader; no pod is annotated any more.
_STOP_SECONDS = 1

_PORTS = prometheus_client.Gauge(
    'kuryr_cilium_controller_ports',
    'Ports of this cluster in Neutron, as the leader sees them.', ['state'])


class Term:
    """One term of a leader.

    :param conf: the configuration.
    :param api: a client.Client.
    :param pod_table: a pods.PodTable, complete.
    :param node_table: a nodes.NodeTable, complete.
    :param ports: a neutron.ports.PortManager.
    :param event: as events.Recorder.event.
    :param leads: callable that says whether this process leads now.
    :param on_port: called after a port was given to a pod.
    """

    def __init__(self, conf, api: k8s_client.Client,
                 pod_table: pods.PodTable, node_table: nodes.NodeTable,
                 ports: neutron_ports.PortManager, event: Callable,
                 leads: Callable[[], bool],
                 on_port: Callable[[], object] = lambda: None):
        self._table = pod_table
        self._ports = ports
        self._on_port = on_port
        self._elected = leads
        self._collect_interval = conf.controller.collect_interval
        self._ledger = releases.Ledger(
            pod_table.get, node_table.exists,
            conf.rpc.call_timeout + _LATE)
        self._provisioner = provision.Provisioner(
            api, pod_table, ports, self._ledger, event, self._leads)
        self._makers = workers.Pool('ports', conf.controller.port_workers,
                                    self._provide)
        self._deleters = workers.Pool('releases', _DELETERS, self._delete)
        self._stop = threading.Event()
        self._collector = threading.Thread(
            target=self._collect_for_ever, name='collector', daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._makers.start()
        self._deleters.start()
        self._collector.start()
        for state in _STATES:
            _PORTS.labels(state).set_function(
                functools.partial(self._count, state))
        for pod in self._table.all():
            if pod.needs_port:
                self._makers.put(pod.uid)

    def stop(self) -> None:
        """End within moments."""
        self._stop.set()
        self._makers.stop(_STOP_SECONDS)
        self._deleters.stop(_STOP_SECONDS)
        for state in _STATES:
            _PORTS.labels(state).set_function(lambda: 0)

    def alive(self) -> bool:
        """Whether all threads run, as they do until stop()."""
        return (self._makers.alive() and self._deleters.alive()
                and self._collector.is_alive())

    def pod_changed(self, uid: str) -> None:
        """A pod is new, has changed or is gone."""
        self._provisioner.seen(uid)
        pod = self._table.get(uid)
        if pod is not None and pod.needs_port:
            self._makers.put(uid)
        else:
            self._makers.forget(uid)
        self._review(self._ledger.of_pod(uid))

    def node_gone(self, name: str) -> None:
        """A Node object was deleted."""
        self._review(self._ledger.of_host(name))

    def released(self, ctxt, host, vifs) -> None:
        """RPC: an agent has unplugged ports."""
        self._ledger.released(host, vifs)
        self._review([vif['vif_id'] for vif in vifs])

    def plugged(self, ctxt, host, vifs) -> None:
        """RPC: an agent has listed all that is plugged on its node."""
        self._ledger.plugged(host, vifs)
        self._review(self._ledger.of_host(host))

    def _count(self, state):
        return self._ledger.states()[state]

    def _leads(self):
        return self._elected() and not self._stop.is_set()

    def _provide(self, uid):
        done = self._provisioner.provide(uid)
        if done:
            self._on_port()
        return done

    def _review(self, port_ids):
        """Have those deleted that are free."""
        for port_id in port_ids:
            if self._ledger.state(port_id) == releases.FREE:
                self._deleters.put(port_id)

    def _delete(self, port_id):
        if (self._ledger.state(port_id) != releases.FREE
                or not self._leads()):
            return True
        try:
            self._ports.delete(port_id)
        except exceptions.KuryrCiliumException as error:
            LOG.warning('Port %s is free and could not be deleted yet: %s',
                        port_id, error)
            return False
        self._ledger.remove(port_id)
        LOG.info('Port %s was deleted: no pod uses it', port_id)
        return True

    def _collect_for_ever(self):
        delays = backoff.Backoff(1, 60)
        while not self._stop.is_set():
            try:
                self._collect()
                delays.reset()
                delay = self._collect_interval
            except exceptions.KuryrCiliumException as error:
                if not delays.failures:
                    LOG.warning('The ports of this cluster could not be '
                                'listed: %s', error)
                delay = delays.next()
            except Exception:
                LOG.exception('Listing the ports of this cluster failed')
                delay = delays.next()
            self._stop.wait(delay)

    def _collect(self):
        """Learn of ports that were made by others and lost by us."""
        before = self._ledger.ids()
        listed = self._ports.list()
        for port in listed:
            self._ledger.add(port.id, port.pod_uid, port.host)
        for port_id in before - {port.id for port in listed}:
            self._ledger.remove(port_id)
        self._ledger.complete()
        self._review(self._ledger.ids())
