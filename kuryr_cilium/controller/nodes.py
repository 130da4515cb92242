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

"""Which nodes there are, and which are worth a message."""

import threading
import time
from typing import Any, Callable, Mapping

from kuryr_cilium.k8s import reflector

#: Seconds that a node is NotReady until it is taken for dead. Messages to a
#: dead one pile up in its queue; it asks for everything when it comes back.
DEAD_AFTER = 600


class NodeTable:
    """Every Node by name. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        #: Name -> None if it is ready, else since when it is not.
        self._nodes: dict[str, float | None] = {}

    def update(self, change: str, obj: Mapping[str, Any]) -> None:
        """Note a change that a reflector has delivered."""
        name = obj['metadata']['name']
        with self._lock:
            if change == reflector.DELETED:
                self._nodes.pop(name, None)
            elif _ready(obj):
                self._nodes[name] = None
            elif self._nodes.get(name) is None:
                self._nodes[name] = self._clock()

    def exists(self, name: str) -> bool:
        """Whether there is a Node of a name."""
        with self._lock:
            return name in self._nodes

    def listens(self, name: str) -> bool:
        """Whether somebody may listen on a node."""
        with self._lock:
            since = self._nodes.get(name, 0.0)
            return since is None or (
                name in self._nodes and self._clock() - since < DEAD_AFTER)


def _ready(obj):
    for condition in (obj.get('status') or {}).get('conditions') or ():
        if condition.get('type') == 'Ready':
            return condition.get('status') == 'True'
    return False
