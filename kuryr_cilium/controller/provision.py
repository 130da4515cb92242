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

"""Gives a pod its port: in Neutron, then in the pod's annotation.

Each step may be the last one before a crash. A port that was made and not
annotated is found again by its tags and its pod's UID; an annotation that
was written is seen as such.
"""

import threading
import time
from typing import Callable

from oslo_log import log as logging
import prometheus_client

from kuryr_cilium.controller import pods
from kuryr_cilium.controller import releases
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import client as k8s_client
from kuryr_cilium.k8s import events
from kuryr_cilium.k8s import resources
from kuryr_cilium.neutron import ports as neutron_ports
from kuryr_cilium import vif

LOG = logging.getLogger(__name__)

FAILED_CREATE_PORT = 'FailedCreatePort'
FAILED_ANNOTATE = 'FailedAnnotate'

_SECONDS = prometheus_client.Histogram(
    'kuryr_cilium_controller_port_seconds',
    'Time to find or make a port and to annotate its pod.',
    buckets=(.1, .25, .5, 1, 2.5, 5, 10, 30))
_FAILURES = prometheus_client.Counter(
    'kuryr_cilium_controller_port_failures',
    'Ports that could not be given to their pods, by error.', ['error'])


class Provisioner:
    """Gives ports to pods. Safe for threads, one pod a thread.

    :param api: a client.Client.
    :param table: a pods.PodTable.
    :param ports: a neutron.ports.PortManager.
    :param ledger: a releases.Ledger, told of the ports.
    :param event: as events.Recorder.event.
    :param leads: callable that says whether this may be done by us now.
    """

    def __init__(self, api: k8s_client.Client, table: pods.PodTable,
                 ports: neutron_ports.PortManager, ledger: releases.Ledger,
                 event: Callable, leads: Callable[[], bool]):
        self._api = api
        self._table = table
        self._ports = ports
        self._ledger = ledger
        self._event = event
        self._leads = leads
        self._lock = threading.Lock()
        self._annotated: set[str] = set()

    def seen(self, uid: str) -> None:
        """A pod was delivered anew: it says itself what it has."""
        with self._lock:
            self._annotated.discard(uid)

    def provide(self, uid: str) -> bool:
        """Give a pod its port if it needs one.

        :returns: whether there is nothing more to be done.
        """
        pod = self._table.get(uid)
        with self._lock:
            annotated = uid in self._annotated
        if pod is None or not pod.needs_port or annotated:
            return True
        began = time.monotonic()
        try:
            if not self._leads():
                return True
            made = self._ports.create(pod.namespace, pod.name, pod.uid,
                                      pod.host)
            self._ledger.add(made.id, pod.uid, pod.host)
            if not self._leads():
                # The next leader finds the port.
                return True
            done = self._annotate(pod, vif.dumps(made))
        except exceptions.KubernetesError as error:
            return self._failed(pod, FAILED_ANNOTATE, error)
        except exceptions.KuryrCiliumException as error:
            if 'port' in error.kwargs:
                # It exists and can't be used (yet).
                self._ledger.add(error.kwargs['port'], pod.uid, pod.host)
            return self._failed(pod, FAILED_CREATE_PORT, error)
        if done:
            _SECONDS.observe(time.monotonic() - began)
            LOG.info('Pod %s on %s has port %s', pod, pod.host, made.id)
        return True

    def _annotate(self, pod, text):
        """Write the annotation; returns whether the pod is still there."""
        path = resources.PODS.path(pod.namespace, pod.name)
        try:
            self._api.merge_patch(path, {'metadata': {
                'uid': pod.uid, 'annotations': {vif.ANNOTATION: text}}})
        except exceptions.KubernetesNotFound:
            LOG.info('Pod %s was deleted before it had its port', pod)
            return False
        except exceptions.KubernetesInvalid:
            if self._api.get(path)['metadata']['uid'] == pod.uid:
                raise
            LOG.info('Pod %s was replaced before it had its port', pod)
            return False
        with self._lock:
            self._annotated.add(pod.uid)
        if self._table.get(pod.uid) is None:
            self.seen(pod.uid)
        return True

    def _failed(self, pod, reason, error):
        _FAILURES.labels(type(error).__name__).inc()
        LOG.warning('Pod %s has no port yet: %s', pod, error)
        self._event({'apiVersion': 'v1', 'kind': resources.PODS.kind,
                     'namespace': pod.namespace, 'name': pod.name,
                     'uid': pod.uid}, events.WARNING, reason, str(error))
        return False
