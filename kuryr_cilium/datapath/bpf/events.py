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

"""Events of the programs, with the names that numbers stand for."""

import collections
import ipaddress
import threading
import time
from typing import Callable, Iterator

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath import driver
from kuryr_cilium.policy import model

#: How many names of endpoints and rulesets are remembered that are gone: an
#: event may be read after what it names was removed.
_REMEMBERED = 4096
_POLL_MS = 200
_ETHERTYPES_IP = (0x0800, 0x86dd)


class Names:
    """What numbers of the datapath stand for, for some time after too."""

    def __init__(self):
        #: Number of a service -> its id, '' if there is none.
        self.service: Callable[[int], str] = lambda number: ''
        self._lock = threading.Lock()
        self._endpoints = collections.OrderedDict()
        self._rulesets = collections.OrderedDict()

    def add_endpoint(self, number: int, uid: str) -> None:
        self._add(self._endpoints, number, uid)

    def add_ruleset(self, number: int, ruleset: model.RuleSet) -> None:
        """Names may change while the number, and the rules, stay."""
        self._add(self._rulesets, number, ruleset.names)

    def uid(self, number: int) -> str:
        with self._lock:
            return self._endpoints.get(number, '')

    def rule(self, number: int, bit: int) -> tuple[str, ...]:
        with self._lock:
            names = self._rulesets.get(number, ())
        return names[bit] if bit < len(names) else ()

    def _add(self, known, number, value):
        with self._lock:
            known[number] = value
            known.move_to_end(number)
            while len(known) > _REMEMBERED:
                known.popitem(last=False)


def translate(event: layout.Event, names: Names,
              boot_time: float) -> driver.FlowEvent:
    """An event as the driver's users see it.

    :param boot_time: seconds of UTC at which the monotonic clock was 0.
    """
    reason = event.reason
    return driver.FlowEvent(
        time=boot_time + event.time / 1e9,
        uid=names.uid(event.endpoint),
        direction='egress' if event.direction == layout.Direction.EGRESS
                  else 'ingress',
        verdict='drop' if reason else 'allow',
        reason=reason_text(reason),
        source=_address(event.source),
        destination=_address(event.destination),
        protocol=event.protocol if event.ethertype in _ETHERTYPES_IP else 0,
        source_port=event.source_port,
        destination_port=event.destination_port,
        rule=names.rule(event.ruleset, event.bit),
        service=names.service(event.service) if event.service else '')


def reason_text(number: int) -> str:
    """The name of a drop reason, '' if nothing was dropped."""
    if not number:
        return ''
    try:
        return layout.Reason(number).text
    except ValueError:
        return 'reason-%d' % number


def read(fd: int, names: Names,
         stopped: threading.Event) -> Iterator[driver.FlowEvent]:
    """Events as they come, until stopped is set.

    :param fd: of the ring buffer; it has one reader.
    """
    if stopped.is_set():
        return
    found: collections.deque[bytes] = collections.deque()
    ring = libbpf.RingBuffer(fd, found.append)
    try:
        while not stopped.is_set():
            ring.poll(_POLL_MS)
            boot_time = time.time() - time.monotonic()
            while found:
                yield translate(layout.Event.unpack(found.popleft()), names,
                                boot_time)
    finally:
        ring.close()


def _address(text):
    return '' if ipaddress.ip_address(text).is_unspecified else text
