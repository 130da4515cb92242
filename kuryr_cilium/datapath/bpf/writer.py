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

"""The only one that writes policy maps.

One lock holds for all writes: there is one writer at a time. After an error
what the maps hold is unknown, and the caller begins a new generation.
"""

import ctypes
import os
import socket
import threading
from typing import Callable

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import rows

#: Kind of number -> where the next one is kept, the first one.
_NUMBERS = {
    'endpoint': (layout.Meta.NEXT_ENDPOINT, 1),
    'space': (layout.Meta.NEXT_SPACE, 1),
    'network': (layout.Meta.NEXT_NETWORK, 1),
    'class': (layout.Meta.NEXT_CLASS, 16),
    'ruleset': (layout.Meta.NEXT_RULESET, rows.FIRST_RULESET),
    'backends': (layout.Meta.NEXT_BACKENDS, 1),
}

#: Numbers reserved at a time: a lost one is never used, and that's all.
_RESERVE = 64

_MEMBARRIER = {'x86_64': 324, 'aarch64': 283, 'riscv64': 283, 'ppc64le': 365,
               's390x': 356}
_MEMBARRIER_CMD_GLOBAL = 1


class Numbers:
    """Numbers that are never used twice while the maps live.

    They are reserved in kc_meta before they are used.
    """

    def __init__(self, maps: maps_.Maps):
        self._maps = maps
        self._ranges: dict[str, tuple[int, int]] = {}

    def allocate(self, kind: str) -> int:
        index, first = _NUMBERS[kind]
        number, end = self._ranges.get(kind, (0, 0))
        if number == end:
            number = max(self._maps.meta(index), first)
            end = number + _RESERVE
            self._maps.set_meta(index, end)
        self._ranges[kind] = number + 1, end
        return number


class Writer:
    """Carries plans out.

    :ivar lock: held for each sequence of reads and writes that belong
        together; reentrant.
    """

    def __init__(self, maps: maps_.Maps):
        self._maps = maps
        self.lock = threading.RLock()
        self.allocate = Numbers(maps).allocate

    def carry_out(self, planned: plan.Plan) -> None:
        """Do the steps of a plan in their order.

        :raises: exceptions.DatapathError; the content is unknown then.
        """
        with self.lock:
            for step in planned.walk():
                if step.phase is plan.Phase.EPOCH:
                    self.advance_epoch()
                elif step.phase is plan.Phase.GRACE:
                    wait_for_packets()
                else:
                    self._maps.write(step.writes)

    def advance_epoch(self) -> None:
        """Void what connections were judged by."""
        with self.lock:
            self._maps.set_meta(layout.Meta.EPOCH, self.epoch() + 1)

    def epoch(self) -> int:
        return self._maps.meta(layout.Meta.EPOCH)

    def purge(self, owns: Callable[[], Callable[[str, tuple | int], bool]]
              ) -> int:
        """Delete the rows of planned tables that nobody owns.

        :param owns: gives the function that tells what is owned now.
        :returns: how many there were.
        """
        found = 0
        for table in maps_.PLANNED:
            # The list is made without the lock; what it names that has no
            # owner later has none ever.
            keys = list(self._maps.keys(table))
            with self.lock:
                owned = owns()
                lost = [key for key in keys if not owned(table, key)]
                self._maps.write(rows.Write(table, key) for key in lost)
            found += len(lost)
        return found


def wait_for_packets() -> None:
    """Wait until every packet is done that is being judged now.

    Programs run in RCU read-side sections, and membarrier's global command
    waits for a grace period of RCU: 8 to 20 ms, with no map of its own to
    write to. A kernel with nohz_full CPUs refuses it. There a packet socket
    is closed, which waits likewise (synchronize_net).
    """
    number = _MEMBARRIER.get(os.uname().machine)
    libc = ctypes.CDLL(None)
    if number is None or libc.syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0):
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
