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

"""Events on policies, pods and services that can't be taken as they are.

Such a policy denies what it can't express, so its author has to be told why
nothing gets through.
"""

import threading
from typing import Any, Callable, Mapping

from kuryr_cilium.k8s import events
from kuryr_cilium.k8s import reflector
from kuryr_cilium.k8s import resources

POLICY_ISOLATES = 'PolicyIsolates'
INVALID_VIF = 'InvalidVIF'
PORT_NOT_SERVED = 'PortNotServed'


class Problems:
    """Says each problem once. Safe for threads.

    :param problems: callable that returns {uid: [Problem]}.
    :param event: as events.Recorder.event.
    """

    def __init__(self, problems: Callable[[], Mapping[str, list]],
                 event: Callable):
        self._problems = problems
        self._event = event
        self._lock = threading.Lock()
        self._references: dict[str, dict[str, Any]] = {}
        self._told: dict[str, tuple] = {}

    def handler(self, resource: resources.Resource) -> Callable:
        """A reflector's handler that remembers what objects are called."""
        def handle(change, obj):
            reference = events.reference(resource, obj)
            with self._lock:
                if change == reflector.DELETED:
                    self._references.pop(reference['uid'], None)
                else:
                    self._references[reference['uid']] = reference
        return handle

    def forget(self) -> None:
        """Tell everything again, as a new leader does."""
        with self._lock:
            self._told = {}

    def review(self) -> None:
        """Tell what was not told yet."""
        problems = self._problems()
        with self._lock:
            untold = []
            for uid, found in problems.items():
                text = tuple(str(problem) for problem in found)
                if self._told.get(uid) != text and uid in self._references:
                    self._told[uid] = text
                    untold.append((self._references[uid], text))
            for uid in self._told.keys() - problems.keys():
                del self._told[uid]
        for reference, text in untold:
            self._tell(reference, text)

    def _tell(self, reference, text):
        if reference['kind'] == resources.PODS.kind:
            self._event(
                reference, events.WARNING, INVALID_VIF,
                'The pod has no network: %s. Delete the pod; if it comes '
                'again, look for what else writes this annotation.' %
                '; '.join(text))
        elif reference['kind'] == resources.SERVICES.kind:
            self._event(
                reference, events.WARNING, PORT_NOT_SERVED,
                'This service is not served as it is written: ' +
                '; '.join(text))
        else:
            self._event(
                reference, events.WARNING, POLICY_ISOLATES,
                'This policy can not be enforced as it is written: what it '
                'selects is isolated, or denied where it denies, because: ' +
                '; '.join(text))
