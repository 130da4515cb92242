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

"""The views of the nodes: the policy index, fed by reflectors, under a lock.

An answer is given only while everything is known and current. A half-listed
world has pods without the policies that isolate them, and a replica that has
lost the API server would take back what another one has told; both would
open what is closed.
"""

import threading
from typing import Any, Callable, Iterable, Mapping

from oslo_log import log as logging

from kuryr_cilium.k8s import reflector
from kuryr_cilium.policy import world

LOG = logging.getLogger(__name__)


class Views:
    """Answers what a node needs, and says whose view has changed.

    :param on_changes: called with world.Changes that are not empty, under
        no lock.
    :param epoch: callable that returns the epoch, 0 if it is not known.
    :param current: callable that says whether all that was listed is what
        the API has.
    """

    def __init__(self, on_changes: Callable[[world.Changes], object],
                 epoch: Callable[[], int], current: Callable[[], bool]):
        self._on_changes = on_changes
        self._epoch = epoch
        self._current = current
        self._lock = threading.Lock()
        self._world = world.World()

    def pod(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for pods."""
        if change == reflector.DELETED:
            self._apply('delete_pod', obj['metadata']['uid'])
        else:
            self._apply('set_pod', obj)

    def namespace(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for namespaces."""
        if change == reflector.DELETED:
            self._apply('delete_namespace', obj['metadata']['name'])
        else:
            self._apply('set_namespace', obj)

    def node(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for nodes."""
        if change == reflector.DELETED:
            self._apply('delete_node', obj['metadata']['name'])
        else:
            self._apply('set_node', obj)

    def policy(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for NetworkPolicies."""
        if change == reflector.DELETED:
            self._apply('delete_policy', obj['metadata']['uid'])
            return
        try:
            self._apply('set_policy', obj)
        except Exception:
            # A fault of ours must not be a hole: as long as the policy can
            # not be applied its whole namespace is isolated.
            LOG.error('NetworkPolicy %s/%s: its namespace is isolated',
                      obj['metadata'].get('namespace'),
                      obj['metadata'].get('name'))
            self._apply('set_policy', {
                'metadata': obj['metadata'],
                'spec': {'podSelector': {},
                         'policyTypes': ['Ingress', 'Egress']}})
            raise

    def set_fastpath(self, vif_ids: Iterable[str]) -> None:
        """The ports on which Neutron has nothing to enforce."""
        self._apply('set_fastpath', vif_ids)

    def view(self, host: str) -> tuple[int, bool, Mapping[str, Any]]:
        """What a node needs: (epoch, synced, {key: object}).

        Not synced, it is empty: then nobody may apply it.
        """
        epoch = self._epoch()
        if not epoch or not self._current():
            return epoch, False, {}
        return epoch, True, self.peek(host)

    def peek(self, host: str) -> Mapping[str, Any]:
        """The view of a node as it is, synced or not."""
        with self._lock:
            return self._world.view(host)

    def problems(self) -> Mapping[str, list]:
        """What can't be expressed: UID of a policy or pod -> Problems."""
        with self._lock:
            found = self._world.problems()
            for uid, problem in self._world.pod_problems().items():
                found[uid] = [problem]
        return found

    def _apply(self, method, argument):
        with self._lock:
            changes = getattr(self._world, method)(argument)
        if changes:
            self._on_changes(changes)
