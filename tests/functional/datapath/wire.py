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

"""Frames on a device, past its queue, and what arrives at another."""

import contextlib
import socket
import threading

_ALL = 0x0003
_SOL_PACKET = 263
_QDISC_BYPASS = 20


class Sender:
    """Sends frames as they are, as a pod with CAP_NET_RAW can."""

    def __init__(self, place, device='eth0'):
        self._socket = place.run(socket.socket, socket.AF_PACKET,
                                 socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
        place.run(self._socket.bind, (device, 0))

    def send(self, frame):
        self._socket.send(frame)

    def close(self):
        self._socket.close()


class Capture:
    """Sees every frame that arrives at a device; a context manager.

    :param wanted: which frames are kept: a function of the bytes. A VLAN
        tag is not in them.
    """

    def __init__(self, place, device='eth0', wanted=lambda frame: True):
        self._socket = place.run(socket.socket, socket.AF_PACKET,
                                 socket.SOCK_RAW, socket.htons(_ALL))
        place.run(self._socket.bind, (device, _ALL))
        self._socket.settimeout(0.1)
        self._wanted = wanted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.frames = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _work(self):
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                frame, address = self._socket.recvfrom(65536)
                # What the device itself sends is not what arrives.
                if address[2] != socket.PACKET_OUTGOING and \
                        self._wanted(frame):
                    self.frames.append(frame)
