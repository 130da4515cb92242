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

"""Flow events with names: into a ring, the log and the metrics."""

import collections
import dataclasses
import datetime
import ipaddress
import threading
import time
from typing import Callable, Iterator, Optional

from oslo_log import log as logging

from kuryr_cilium.datapath import driver
from kuryr_cilium.monitor import metrics
from kuryr_cilium.policy import model

LOG = logging.getLogger(__name__)

#: Seconds after which a follower without events is given a sign of life.
KEEPALIVE = 15.0

_PROTOCOLS = {1: 'ICMP', 58: 'ICMPv6', **{
    number: name for name, number in model.PROTOCOLS.items()}}


@dataclasses.dataclass(frozen=True, slots=True)
class NamedEvent:
    """A flow event with the names that the node knows.

    :ivar seq: number of the event since the agent's start.
    :ivar pod: namespace/name of the pod judged, '' if unknown.
    :ivar source_pod: namespace/name of the sender, '' if the node's view
        doesn't name it.
    :ivar service: namespace/name of the service that the pod asked, '' for
        none; the destination is its backend, if it has one.
    """

    seq: int
    time: str
    verdict: str
    direction: str
    reason: str
    pod: str
    uid: str
    source: str
    source_pod: str
    source_port: int
    destination: str
    destination_pod: str
    destination_port: int
    protocol: str
    policies: tuple[str, ...]
    service: str = ''

    def __str__(self):
        parts = [self.verdict, self.direction, self.protocol,
                 _side(self.source, self.source_port, self.source_pod), '->',
                 _side(self.destination, self.destination_port,
                       self.destination_pod)]
        if self.service:
            parts.append('by service ' + self.service)
        if self.reason:
            parts.append('reason ' + self.reason)
        if self.policies:
            parts.append('by ' + ', '.join(self.policies))
        return ' '.join(filter(None, parts))


class Names:
    """Pods by address and by UID, of the endpoints of a view."""

    def __init__(self):
        self._view: Optional[model.View] = None
        self._by_uid: dict[str, str] = {}
        self._by_address: dict[str, str] = {}

    def update(self, view: Optional[model.View]) -> None:
        if view is self._view or view is None:
            return
        by_uid = {e.uid: f'{e.namespace}/{e.name}'
                  for e in view.endpoints.values()}
        self._by_address = {
            address: by_uid[e.uid]
            for e in view.endpoints.values() for address in e.addresses}
        self._by_uid = by_uid
        self._view = view

    def of_uid(self, uid: str) -> str:
        return self._by_uid.get(uid, '')

    def of_address(self, address: str) -> str:
        return self._by_address.get(address, '')


class RateLimit:
    """A token bucket that counts what it refuses.

    :param rate: tokens a second.
    :param burst: tokens at most.
    """

    def __init__(self, rate: float, burst: int, clock=time.monotonic):
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()
        self._refused = 0

    def take(self) -> Optional[int]:
        """How many were refused since the last one; None if refused."""
        now = self._clock()
        self._tokens = min(self._burst,
                           self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            self._refused += 1
            return None
        self._tokens -= 1
        refused, self._refused = self._refused, 0
        return refused


class Ring:
    """The last events. Safe for threads.

    :param size: how many.
    """

    def __init__(self, size: int):
        self._events = collections.deque(maxlen=size)
        self._added = threading.Condition()
        self._seq = 0
        self._closed = False

    def add(self, make: Callable[[int], NamedEvent]) -> NamedEvent:
        with self._added:
            self._seq += 1
            event = make(self._seq)
            self._events.append(event)
            self._added.notify_all()
        return event

    def since(self, seq: int) -> list[NamedEvent]:
        """The events after a number, oldest first."""
        with self._added:
            return self._after(seq)

    def follow(self, seq: int) -> Iterator[Optional[NamedEvent]]:
        """Events after a number as they come; None as a sign of life."""
        while True:
            with self._added:
                found = self._after(seq)
                if not found and not self._closed:
                    self._added.wait(KEEPALIVE)
                    found = self._after(seq)
                closed = self._closed
            for event in found:
                seq = event.seq
                yield event
            if closed:
                return
            if not found:
                yield None

    def close(self) -> None:
        """End every follow()."""
        with self._added:
            self._closed = True
            self._added.notify_all()

    def _after(self, seq):
        # NOTE: numbers are consecutive, so what is new is the ring's end.
        count = min(max(self._seq - seq, 0), len(self._events))
        return [self._events[-i] for i in range(count, 0, -1)]


class Monitor:
    """Reads a datapath's events in a thread.

    :param view: callable that returns the view in force, or None.
    """

    def __init__(self, datapath: driver.Driver,
                 view: Callable[[], Optional[model.View]], ring_size: int,
                 log_drops: bool, log_rate: float, log_burst: int):
        self.ring = Ring(ring_size)
        self._datapath = datapath
        self._view = view
        self._log_drops = log_drops
        self._limit = RateLimit(log_rate, log_burst)
        self._names = Names()
        self._thread: Optional[threading.Thread] = None
        self._stop = threading.Event()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name='monitor',
                                        daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Call it before the datapath's stop(), which ends the thread."""
        self._stop.set()
        self.ring.close()

    def join(self, timeout: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self):
        while not self._stop.is_set():
            try:
                for event in self._datapath.events():
                    self._take(event)
                    if self._stop.is_set():
                        return
            except Exception:
                LOG.exception('Flow events could not be read.')
            self._stop.wait(1.0)

    def _take(self, event):
        metrics.FLOW_EVENTS.labels(event.verdict, event.direction,
                                   event.reason).inc()
        self._names.update(self._view())
        named = self.ring.add(lambda seq: name(seq, event, self._names))
        if event.verdict != 'drop':
            LOG.debug('flow: %s', named)
            return
        if not self._log_drops:
            return
        refused = self._limit.take()
        if refused is None:
            return
        if refused:
            LOG.info('flow: %d more drops were not logged', refused)
        LOG.info('flow: %s', named)


def name(seq: int, event: driver.FlowEvent, names: Names) -> NamedEvent:
    """An event with the names that are known."""
    pod = names.of_uid(event.uid)
    sends = event.direction == 'egress'
    source = names.of_address(event.source)
    destination = names.of_address(event.destination)
    # NOTE: a pod that spoofs another's address is named by what it is.
    if pod and sends:
        source = pod
    elif pod:
        destination = destination or pod
    return NamedEvent(
        seq, _utc(event.time), event.verdict, event.direction, event.reason,
        pod, event.uid, event.source, source, event.source_port,
        event.destination, destination, event.destination_port,
        _PROTOCOLS.get(event.protocol, str(event.protocol or '')),
        tuple(event.rule), event.service)


def _utc(seconds):
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def _side(address, port, pod):
    if not address:
        return pod or '?'
    if port and ipaddress.ip_address(address).version == 6:
        address = f'[{address}]'
    text = f'{address}:{port}' if port else address
    return f'{pod} ({text})' if pod else text
