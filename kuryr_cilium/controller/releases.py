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

"""When a port may be taken from a pod: assigned, releasing, free.

A port is *assigned* as long as its pod may use it. When the pod is gone or
has ended the port is *releasing*: its address still lives on a node until
that node's agent has unplugged it. Only then the port is *free*. A node that
says nothing keeps its ports, unless its Node object is gone.

What counts as the agent's word:

- a report that the port was released, if the pod was being deleted, had
  ended or was gone when it came. Of a pod that still runs it means no more
  than that its sandbox is made anew; it counts if the pod ends right away
  (the kubelet reports the end of a pod after it has torn it down) and the
  port is in no later list of what is plugged;
- a list of everything that is plugged on the node, without the port. A list
  that was on its way while the pod was plugged and unplugged again must not
  count: only one that arrives some time after the pod was seen gone does,
  the time that a list can be on its way (it is a call and expires).

A new leader knows none of this: it frees nothing of a node before that
node's agent has listed what it has plugged. What agents report before the
leader has listed Neutron's ports is kept, as they do not say it again.
"""

import dataclasses
import threading
import time
from typing import Callable, Iterable, Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.controller import pods

LOG = logging.getLogger(__name__)

ASSIGNED = 'assigned'
RELEASING = 'releasing'
FREE = 'free'


@dataclasses.dataclass(slots=True)
class _Entry:
    """A port that exists in Neutron.

    :ivar gone_at: when the pod was first seen not to use it any more.
    :ivar released: the agent has said so, in a way that counts.
    :ivar pending: the agent has said so while the pod was running.
    """

    port_id: str
    pod_uid: str
    host: str
    gone_at: Optional[float] = None
    released: bool = False
    pending: bool = False


class Ledger:
    """The states of all ports in one term of a leader. Safe for threads.

    :param pod: callable that returns the pods.Pod of a UID, None if it does
        not exist.
    :param node_exists: callable that says whether there is a Node of a name.
    :param travel: seconds that a list of what is plugged can be on its way.
    :param clock: as time.monotonic.
    """

    def __init__(self, pod: Callable[[str], Optional[pods.Pod]],
                 node_exists: Callable[[str], bool], travel: float,
                 clock: Callable[[], float] = time.monotonic):
        self._pod = pod
        self._node_exists = node_exists
        self._travel = travel
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._by_pod: dict[str, set[str]] = {}
        self._by_host: dict[str, set[str]] = {}
        self._heard: set[str] = set()
        # Reported and not seen in Neutron yet; None: all were listed.
        self._early: Optional[dict[str, _Entry]] = {}

    def add(self, port_id: str, pod_uid: str, host: str) -> None:
        """A port exists. Idempotent."""
        with self._lock:
            if port_id not in self._entries:
                entry = _Entry(port_id, pod_uid, host)
                early = (self._early or {}).pop(port_id, None)
                if early is not None and (early.pod_uid, early.host) == (
                        pod_uid, host):
                    entry = early
                self._entries[port_id] = entry
                self._by_pod.setdefault(pod_uid, set()).add(port_id)
                self._by_host.setdefault(host, set()).add(port_id)

    def remove(self, port_id: str) -> None:
        """A port exists no more. Idempotent."""
        with self._lock:
            entry = self._entries.pop(port_id, None)
            if entry is None:
                return
            for index, key in ((self._by_pod, entry.pod_uid),
                               (self._by_host, entry.host)):
                index[key].discard(port_id)
                if not index[key]:
                    del index[key]

    def complete(self) -> None:
        """All ports that exist were added: a report of others is of none."""
        with self._lock:
            self._early = None

    def ids(self) -> set[str]:
        """The ports that are known."""
        with self._lock:
            return set(self._entries)

    def released(self, host: str, vifs: Iterable[Mapping[str, str]]) -> None:
        """An agent has unplugged ports.

        :param host: the agent's node; ports of others are not its to free.
        :param vifs: mappings with vif_id and pod_uid.
        """
        with self._lock:
            for vif in vifs:
                entry = self._entries.get(vif['vif_id'])
                if entry is None and self._early is not None:
                    entry = self._early.setdefault(vif['vif_id'], _Entry(
                        vif['vif_id'], vif['pod_uid'], host))
                if (entry is None or entry.host != host
                        or entry.pod_uid != vif['pod_uid']):
                    continue
                pod = self._pod(entry.pod_uid)
                if self._uses(entry, pod) and not pod.deleting:
                    entry.pending = True
                else:
                    entry.released = True

    def plugged(self, host: str, vif_ids: Iterable[str]) -> None:
        """An agent has listed everything that is plugged on its node."""
        vif_ids = set(vif_ids)
        now = self._clock()
        with self._lock:
            self._heard.add(host)
            for entry in (self._early or {}).values():
                if entry.host == host and entry.port_id in vif_ids:
                    entry.released = entry.pending = False
            for port_id in self._by_host.get(host, ()):
                entry = self._entries[port_id]
                if port_id in vif_ids:
                    entry.released = entry.pending = False
                    continue
                self._age(entry, now)
                if (entry.gone_at is not None
                        and now - entry.gone_at >= self._travel):
                    entry.released = True

    def of_pod(self, uid: str) -> list[str]:
        """The ports of a pod."""
        with self._lock:
            return list(self._by_pod.get(uid, ()))

    def of_host(self, host: str) -> list[str]:
        """The ports of a node."""
        with self._lock:
            return list(self._by_host.get(host, ()))

    def state(self, port_id: str) -> Optional[str]:
        """ASSIGNED, RELEASING or FREE; None for an unknown port."""
        with self._lock:
            entry = self._entries.get(port_id)
            return self._state(entry) if entry is not None else None

    def states(self) -> dict[str, int]:
        """How many ports are in each state."""
        counts = {ASSIGNED: 0, RELEASING: 0, FREE: 0}
        with self._lock:
            for entry in self._entries.values():
                counts[self._state(entry)] += 1
        return counts

    def _state(self, entry):
        self._age(entry, self._clock())
        if entry.gone_at is None:
            return ASSIGNED
        if not self._node_exists(entry.host):
            return FREE
        if entry.released and entry.host in self._heard:
            return FREE
        return RELEASING

    def _age(self, entry, now):
        """Note whether the pod is gone, and since when."""
        pod = self._pod(entry.pod_uid)
        if self._uses(entry, pod):
            entry.gone_at = None
            return
        if entry.gone_at is None:
            entry.gone_at = now
        if entry.pending and pod is not None and pod.terminal:
            entry.released = True
        entry.pending = False

    def _uses(self, entry, pod):
        """Whether a pod has, or may still get, a port."""
        if pod is None or not pod.keeps_port:
            return False
        # A pod whose annotation names another port has never seen this one.
        return pod.vif_id in (None, entry.port_id)
