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

"""Services as nodes are told of them, fed by reflectors, under a lock."""

import threading
from typing import Any, Callable, Iterable, Mapping, Optional, Union

from kuryr_cilium.k8s import reflector
from kuryr_cilium.lb import model
from kuryr_cilium.lb import services
from kuryr_cilium.policy import pods
from kuryr_cilium import vif

#: Source: Kubernetes documentation, "Well-Known Labels".
ZONE = 'topology.kubernetes.io/zone'

Object = Union[model.Service, model.Node]


class Services:
    """Answers what services there are, and says which have changed.

    :param on_changes: called with the keys of what is different, under no
        lock.
    :param epoch: callable that returns the epoch, 0 if it is not known.
    :param current: callable that says whether all that was listed is what
        the API has.
    :param facts: callable that returns the VIF of the pod that has an
        address, None if there is none.
    """

    def __init__(self, on_changes: Callable[[frozenset[str]], object],
                 epoch: Callable[[], int], current: Callable[[], bool],
                 facts: Callable[[str], Optional[vif.Facts]]):
        self._on_changes = on_changes
        self._epoch = epoch
        self._current = current
        self._facts = facts
        self._lock = threading.Lock()
        self._services = services.Services(self._pod)
        # Replaced, never changed: answers are made from it without the lock.
        self._objects: Mapping[str, model.Service] = {}
        self._nodes: Mapping[str, model.Node] = {}

    def service(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for services."""
        if change == reflector.DELETED:
            self._apply(self._services.delete_service,
                        obj['metadata']['uid'])
        else:
            self._apply(self._services.set_service, obj)

    def slice(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for EndpointSlices."""
        if change == reflector.DELETED:
            self._apply(self._services.delete_slice, obj['metadata']['uid'])
        else:
            self._apply(self._services.set_slice, obj)

    def pod(self, change: str, obj: Mapping[str, Any]) -> None:
        """A handler for pods, after those that know their VIFs."""
        for item in (obj.get('status') or {}).get('podIPs') or ():
            self._apply(self._services.pod_changed, item.get('ip'))

    def node(self, change: str, obj: Mapping[str, Any]) -> None:
        """A reflector's handler for nodes."""
        name = obj['metadata']['name']
        with self._lock:
            now = dict(self._nodes)
            if change == reflector.DELETED:
                now.pop(name, None)
            else:
                now[name] = model.Node(name, (
                    obj['metadata'].get('labels') or {}).get(ZONE, ''),
                    pods.node_addresses(obj))
            different = now.get(name) != self._nodes.get(name)
            self._nodes = now
        if different:
            self._on_changes(frozenset(('node:' + name,)))

    def view(self, host: str) -> tuple[int, bool, Mapping[str, Object]]:
        """What a node is told: (epoch, synced, {key: object}).

        Not synced, it is empty: then nobody may apply it.
        """
        epoch = self._epoch()
        if not epoch or not self._current():
            return epoch, False, {}
        return epoch, True, {
            **{'node:' + name: node for name, node in self._nodes.items()},
            **self._objects}

    def pieces(self, keys: Iterable[str]) -> dict[str, Optional[Object]]:
        """What is sent under some keys; None of what is gone."""
        found: dict[str, Optional[Object]] = {}
        for key in keys:
            kind, _, name = key.partition(':')
            found[key] = (self._nodes.get(name) if kind == 'node'
                          else self._objects.get(key))
        return found

    def problems(self) -> dict[str, str]:
        """What can't be served: UID of a service -> why."""
        with self._lock:
            return dict(self._services.problems())

    def _pod(self, address):
        facts = self._facts(address)
        return (facts.mac, facts.network_id) if facts else None

    def _apply(self, method, argument):
        with self._lock:
            changed = method(argument)
            if changed:
                now = dict(self._objects)
                for name in changed:
                    service = self._services.services.get(name)
                    if service is None:
                        now.pop('service:' + name, None)
                    else:
                        now['service:' + name] = service
                self._objects = now
        if changed:
            self._on_changes(frozenset('service:' + name
                                       for name in changed))
