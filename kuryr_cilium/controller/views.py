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

import functools
import threading
from typing import Any, Callable, Iterable, Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.controller import metrics
from kuryr_cilium.k8s import reflector
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import world
from kuryr_cilium import vif

LOG = logging.getLogger(__name__)


class Views:
    """Answers what a node needs, and says whose view has changed.

    :param on_changes: called with world.Changes that are not empty, under
        no lock.
    :param epoch: callable that returns the epoch, 0 if it is not known.
    :param current: callable that says whether all that was listed is what
        the API has.
    :param options: what the operator has chosen of what policies mean.
    """

    def __init__(self, on_changes: Callable[[world.Changes], object],
                 epoch: Callable[[], int], current: Callable[[], bool],
                 options: kinds.Options = kinds.Options()):
        self._on_changes = on_changes
        self._epoch = epoch
        self._current = current
        self._lock = threading.Lock()
        self._world = world.World(options)

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

    def service(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for services."""
        if change == reflector.DELETED:
            self._apply('delete_service', obj['metadata']['uid'])
        else:
            self._apply('set_service', obj)

    def slice(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for EndpointSlices."""
        if change == reflector.DELETED:
            self._apply('delete_slice', obj['metadata']['uid'])
        else:
            self._apply('set_slice', obj)

    def policy(self, kind: str) -> Callable[[str, Mapping[str, Any]], None]:
        """A reflector's handler for policies of a kind."""
        return functools.partial(self._policy, kind)

    def _policy(self, kind, change, obj):
        try:
            if change == reflector.DELETED:
                self._apply('delete_policy', obj['metadata']['uid'])
                return
            try:
                self._apply('set_policy', kind, obj)
            except Exception:
                # A fault of ours must not be a hole: as long as the policy
                # can not be applied nothing gets through.
                namespace = obj['metadata'].get('namespace')
                LOG.error(
                    '%s %s: %s denied', kind, '/'.join(filter(None, (
                        namespace, obj['metadata'].get('name')))),
                    'its namespace is' if namespace else
                    'all but exempt namespaces are')
                self._apply('isolate', kind, obj)
                raise
        finally:
            self._count()

    def _count(self):
        with self._lock:
            found, broken = self._world.counts()
        for kind in kinds.PARSERS:
            metrics.POLICIES.labels(kind).set(found[kind])
            metrics.POLICY_PROBLEMS.labels(kind).set(broken[kind])

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
        with self._lock:
            return epoch, True, self._world.pieces(host)

    def peek(self, host: str) -> Mapping[str, Any]:
        """The view of a node as it is, synced or not."""
        with self._lock:
            return self._world.view(host)

    def pieces(self, keys: Iterable[str]) -> Mapping[str, Any]:
        """What is sent under some keys; None of what is gone."""
        with self._lock:
            return {key: self._world.piece(key) for key in keys}

    def uses(self, host: str, ruleset_id: str) -> bool:
        """Whether a ruleset is in the view of a node."""
        with self._lock:
            return self._world.uses(host, ruleset_id)

    def vif(self, address: str) -> Optional[vif.Facts]:
        """The VIF of the pod that has an address."""
        with self._lock:
            pod = self._world.pod(address)
        return pod.facts if pod else None

    def problems(self) -> Mapping[str, list]:
        """What can't be expressed: UID of a policy or pod -> Problems."""
        with self._lock:
            found = self._world.problems()
            for uid, problem in self._world.pod_problems().items():
                found[uid] = [problem]
        return found

    def _apply(self, method, *arguments):
        with self._lock, metrics.CHANGE_SECONDS.labels(method).time():
            changes = getattr(self._world, method)(*arguments)
        if changes:
            self._on_changes(changes)
