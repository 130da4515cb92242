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

"""Asking many questions at once, from the network namespaces of who asks.

A round opens a socket for each TCP and UDP probe and one for the pings of
each (who asks, IP version), waits for answers, and says what came.
"""

from concurrent import futures
import dataclasses
import errno
import os
import selectors
import socket
import struct
import threading
import time
from typing import Iterable, Mapping

from kuryr_cilium.linux import netns
from tests.conformance import cast
from tests.conformance import table

REFUSED = 'refused'
#: Seconds after which what was not answered is sent once more. (TCP does so
#: by itself.)
AGAIN = 0.6
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_KINDS = {'tcp': socket.SOCK_STREAM, 'udp': socket.SOCK_DGRAM}
_ECHO = {4: (socket.IPPROTO_ICMP, 8, 0),
         6: (socket.IPPROTO_ICMPV6, 128, 129)}
_REFUSALS = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
             errno.EACCES)
#: What agnhost's server of datagrams answers to, and so does Responder.
_QUESTION = b'hostname'


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where somebody is.

    :ivar netns: path of a network namespace.
    :ivar addresses: by IP version.
    """

    name: str
    netns: str
    addresses: Mapping[int, str]

    def bound(self, version: int, kind: int, port: int = 0) -> socket.socket:
        """A socket with its address."""
        found = socket.socket(_FAMILIES[version], kind)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((self.addresses[version], port))
            found.setblocking(False)
        except OSError:
            found.close()
            raise
        return found

    def echo(self, version: int) -> socket.socket:
        """A socket for echo requests."""
        found = socket.socket(_FAMILIES[version], socket.SOCK_RAW,
                              _ECHO[version][0])
        try:
            found.bind((self.addresses[version], 0))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            found.setblocking(False)
        except OSError:
            found.close()
            raise
        return found


def ask(places: Mapping[str, Place], expected: Mapping[cast.Probe, bool],
        least: float, most: float) -> dict[cast.Probe, str | None]:
    """Ask all questions, and wait for the answers.

    :param expected: whether a probe is to be answered.
    :param least: seconds to wait for answers that are not expected.
    :param most: seconds to wait for those that are.
    :returns: 'answer'; 'refused' by something on the way; None for silence.
    """
    by_source = {}
    for probe in expected:
        by_source.setdefault(probe.source, []).append(probe)
    with futures.ThreadPoolExecutor(len(by_source)) as pool:
        rounds = [pool.submit(
            netns.run, places[source].netns,
            _Round(places, source, probes, expected).run, least, most)
            for source, probes in by_source.items()]
    seen = {}
    for item in rounds:
        seen.update(item.result())
    return seen


class _Round:
    """The questions of one who asks. Works in its network namespace."""

    def __init__(self, places, source, probes, expected):
        self._places = places
        self._source = places[source]
        self._probes = probes
        self._expected = expected
        self._seen: dict[cast.Probe, str] = {}
        self._waiting: dict[cast.Probe, socket.socket] = {}
        self._pings: dict[tuple[int, int], cast.Probe] = {}
        self._id = int.from_bytes(os.urandom(2), 'big')

    def run(self, least, most):
        with selectors.EpollSelector() as self._selector:
            try:
                self._open()
                self._wait(least, most)
            finally:
                for key in list(self._selector.get_map().values()):
                    key.fileobj.close()
        return {probe: self._seen.get(probe) for probe in self._probes}

    def _open(self):
        self._echoes = {}
        for number, probe in enumerate(self._probes):
            if probe.protocol == 'icmp':
                if probe.version not in self._echoes:
                    echo = self._source.echo(probe.version)
                    self._echoes[probe.version] = echo
                    self._selector.register(echo, selectors.EVENT_READ, None)
                self._pings[probe.version, number] = probe
                self._ping(probe, number)
                continue
            opened = self._source.bound(probe.version,
                                        _KINDS[probe.protocol])
            self._waiting[probe] = opened
            self._selector.register(
                opened, selectors.EVENT_WRITE if probe.protocol == 'tcp'
                else selectors.EVENT_READ, probe)
            code = opened.connect_ex((self._address(probe), probe.port))
            if code not in (0, errno.EINPROGRESS):
                self._done(probe, code)
            elif probe.protocol == 'udp':
                self._send(probe)

    def _address(self, probe):
        return self._places[probe.destination].addresses[probe.version]

    def _wait(self, least, most):
        begin = time.monotonic()
        again = begin + AGAIN
        open_yet = {probe for probe in self._probes if self._expected[probe]}
        while True:
            now = time.monotonic()
            open_yet.difference_update(self._seen)
            if now >= begin + (most if open_yet else least):
                return
            if now >= again:
                again = begin + most + 1
                self._repeat()
            for key, _events in self._selector.select(0.05):
                if key.data is None:
                    self._receive_echoes(key.fileobj)
                elif key.data.protocol == 'tcp':
                    self._done(key.data, key.fileobj.getsockopt(
                        socket.SOL_SOCKET, socket.SO_ERROR))
                else:
                    self._receive(key.data)

    def _repeat(self):
        for probe in self._waiting:
            if probe.protocol == 'udp':
                self._send(probe)
        for (_version, number), probe in self._pings.items():
            if probe not in self._seen:
                self._ping(probe, number)

    def _send(self, probe):
        try:
            self._waiting[probe].send(_QUESTION)
        except BlockingIOError:
            pass
        except OSError as error:
            self._note(probe, error.errno)

    def _receive(self, probe):
        try:
            self._waiting[probe].recv(2048)
            self._done(probe, 0)
        except BlockingIOError:
            pass
        except OSError as error:
            self._done(probe, error.errno)

    def _done(self, probe, code):
        self._note(probe, code)
        found = self._waiting.pop(probe)
        self._selector.unregister(found)
        if probe.protocol == 'tcp':
            # Ends by RST: nothing of it is left.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack('ii', 1, 0))
        found.close()

    def _note(self, probe, code):
        if code == 0:
            self._seen[probe] = table.ANSWER
        elif code in _REFUSALS:
            self._seen.setdefault(probe, REFUSED)
        elif code != errno.ETIMEDOUT:
            self._seen.setdefault(probe, errno.errorcode[code])

    def _ping(self, probe, number):
        _protocol, kind, _reply = _ECHO[probe.version]
        message = struct.pack('>BBHHH8s', kind, 0, 0, self._id, number,
                              b'policy??')
        if probe.version == 4:
            message = (message[:2] + struct.pack('>H', checksum(message))
                       + message[4:])
        try:
            self._echoes[probe.version].sendto(message,
                                               (self._address(probe), 0))
        except BlockingIOError:
            pass
        except OSError as error:
            self._note(probe, error.errno)

    def _receive_echoes(self, echo):
        version = 4 if echo.family == socket.AF_INET else 6
        while True:
            try:
                message, sender = echo.recvfrom(2048)
            except OSError:
                return
            if version == 4:
                message = message[(message[0] & 15) * 4:]
            kind, _code, _sum, identifier, number = struct.unpack_from(
                '>BBHHH', message)
            probe = self._pings.get((version, number))
            if (kind == _ECHO[version][2] and identifier == self._id
                    and probe and sender[0] == self._address(probe)):
                self._note(probe, 0)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack('>%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff


class Responder(threading.Thread):
    """Answers on the ports of whoever is no pod, TCP and UDP."""

    def __init__(self, places: Iterable[Place]):
        super().__init__(name='responder', daemon=True)
        self._selector = selectors.EpollSelector()
        self._wake, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ)
        try:
            for place in places:
                netns.run(place.netns, self._open, place)
        except OSError:
            self._close()
            raise

    def _open(self, place):
        for version in cast.VERSIONS:
            for port in cast.PORTS:
                for kind in _KINDS.values():
                    opened = place.bound(version, kind, port)
                    self._selector.register(opened, selectors.EVENT_READ)
                    if kind == socket.SOCK_STREAM:
                        opened.listen(512)

    def run(self):
        while True:
            for key, _events in self._selector.select():
                if key.fileobj is self._stopped:
                    self._close()
                    return
                self._serve(key.fileobj)

    def _serve(self, opened):
        try:
            if opened.type == socket.SOCK_STREAM:
                opened.accept()[0].close()
            else:
                data, sender = opened.recvfrom(2048)
                opened.sendto(data, sender)
        except OSError:
            # Whoever asked has gone.
            return

    def stop(self) -> None:
        self._wake.close()
        self.join()

    def _close(self):
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()
