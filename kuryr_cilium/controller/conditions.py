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

"""Status conditions of policies: whether they are taken as they are.

Only the leader writes, only where the condition differs, and only on the
object as it was seen: a patch with its resourceVersion never undoes what
another writer has just written. One that comes too late is made again from
what the watch brings.
"""

import dataclasses
import datetime
import threading
from typing import Any, Callable, Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.controller import metrics
from kuryr_cilium import exceptions
from kuryr_cilium.k8s import backoff
from kuryr_cilium.k8s import reflector
from kuryr_cilium.k8s import resources

LOG = logging.getLogger(__name__)

_LENGTH = 4096
#: What differs makes a condition another one; the rest is its history.
_SAYS = ('type', 'status', 'reason', 'message')


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How a kind of policy says it.

    :ivar condition: its type. One of ours where the API names none, so that
        it is nobody else's.
    :ivar generation: whether a condition says of which generation it is.
    """

    condition: str
    generation: bool


#: Kind -> how it says it. Sources: network-policy-api,
#: ``ClusterNetworkPolicyStatus``; Cilium, ``NetworkPolicyCondition``.
FORMS = {
    resources.CLUSTER_NETWORK_POLICIES.kind: Form(
        'kuryr-cilium.openstack.org/Accepted', True),
    resources.CILIUM_NETWORK_POLICIES.kind: Form('Valid', False),
    resources.CILIUM_CLUSTERWIDE_NETWORK_POLICIES.kind: Form('Valid', False),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """A policy as it was seen last."""

    resource: resources.Resource
    namespace: Optional[str]
    name: str
    version: str
    generation: int
    conditions: tuple[Mapping[str, Any], ...]


def wanted(form: Form, problems: list, generation: int) -> dict[str, Any]:
    """The condition of a policy, without its time.

    :param problems: why it can't be expressed.
    """
    found = {'type': form.condition, 'status': 'True', 'reason': 'Enforced',
             'message': 'The policy is enforced as it is written.'}
    if problems:
        text = ('What can not be expressed is denied: ' +
                '; '.join(str(problem) for problem in problems))
        if len(text) > _LENGTH:
            text = text[:_LENGTH - 3] + '...'
        found.update(status='False', reason='NotExpressible', message=text)
    if form.generation:
        found['observedGeneration'] = generation
    return found


def merged(conditions: tuple[Mapping[str, Any], ...],
           condition: Mapping[str, Any], now: str
           ) -> Optional[list[Mapping[str, Any]]]:
    """A policy's conditions with ours; None if it is there already."""
    before = next((item for item in conditions
                   if item.get('type') == condition['type']), None)
    keys = (*_SAYS, 'observedGeneration')
    if before is not None and all(
            before.get(key) == condition.get(key) for key in keys):
        return None
    since = now
    if before is not None and before.get('status') == condition['status']:
        since = before.get('lastTransitionTime') or now
    return [item for item in conditions
            if item.get('type') != condition['type']] + [
        {**condition, 'lastTransitionTime': since}]


class Conditions:
    """Writes conditions from a thread of its own.

    :param client: a k8s.client.Client; connections of its own are made.
    :param problems: callable that returns {uid: [Problem]}.
    :param leads: callable that says whether this replica may write.
    """

    def __init__(self, client, problems: Callable[[], Mapping[str, list]],
                 leads: Callable[[], bool]):
        self._client = client.clone()
        self._problems = problems
        self._leads = leads
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        #: UID -> version on which a write was refused; not tried again.
        self._refused: dict[str, str] = {}
        self._delays = backoff.Backoff(1, 30)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='conditions',
                                        daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Stop at once."""
        self._stop.set()
        self._wake.set()
        self._client.close()
        if self._thread.is_alive():
            self._thread.join(5)

    def alive(self) -> bool:
        """Whether the thread runs, as it does until stop()."""
        return self._thread.is_alive()

    def handler(self, resource: resources.Resource) -> Callable:
        """A reflector's handler that notes what policies say now."""
        def handle(change, obj):
            meta = obj['metadata']
            with self._lock:
                if change == reflector.DELETED:
                    self._seen.pop(meta['uid'], None)
                    self._refused.pop(meta['uid'], None)
                    return
                status = obj.get('status')
                found = status.get('conditions') if isinstance(
                    status, Mapping) else None
                self._seen[meta['uid']] = _Seen(
                    resource, meta.get('namespace'), meta['name'],
                    meta['resourceVersion'], meta.get('generation') or 0,
                    tuple(item for item in found or ()
                          if isinstance(item, Mapping)))
            self._wake.set()
        return handle

    def wake(self) -> None:
        """Look again at all policies, as a new leader does."""
        self._wake.set()

    def _run(self):
        while True:
            self._wake.wait()
            if self._stop.is_set():
                return
            self._wake.clear()
            delay = 0.0
            try:
                self.review()
                self._delays.reset()
            except exceptions.KuryrCiliumException as error:
                LOG.warning('Conditions of policies are not written, trying '
                            'again: %s', error)
                delay = self._delays.next()
            except Exception:
                LOG.exception('Conditions of policies are not written')
                delay = self._delays.next()
            if delay:
                self._wake.set()
                self._stop.wait(delay)

    def review(self) -> None:
        """Write what differs."""
        if not self._leads():
            return
        problems = self._problems()
        with self._lock:
            seen = dict(self._seen)
        now = datetime.datetime.now(datetime.timezone.utc).strftime(
            '%Y-%m-%dT%H:%M:%SZ')
        for uid, item in seen.items():
            if self._stop.is_set() or not self._leads():
                return
            form = FORMS[item.resource.kind]
            found = merged(item.conditions, wanted(
                form, problems.get(uid, []), item.generation), now)
            if found is not None and self._refused.get(uid) != item.version:
                self._write(uid, item, found)

    def _write(self, uid, item, found):
        try:
            self._client.merge_patch(
                item.resource.path(item.namespace, item.name, 'status'),
                {'metadata': {'uid': uid, 'resourceVersion': item.version},
                 'status': {'conditions': found}})
            result = 'written'
        except exceptions.KubernetesConflict:
            # The watch brings what is there now.
            result = 'conflict'
        except (exceptions.KubernetesUnavailable,
                exceptions.KubernetesBusy):
            raise
        except exceptions.KubernetesError as error:
            result = 'refused'
            self._refused[uid] = item.version
            LOG.warning('The condition of %s %s was not written: %s',
                        item.resource.kind, '/'.join(filter(None, (
                            item.namespace, item.name))), error)
        metrics.STATUS_WRITES.labels(result).inc()
