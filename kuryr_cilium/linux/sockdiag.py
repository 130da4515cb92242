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
"""The UDP sockets of a network namespace, and ending them.

Source: sock_diag(7); SOCK_DESTROY is of Linux 4.5, and needs a kernel with
CONFIG_INET_DIAG_DESTROY.
"""

import ipaddress
import os
import socket
import struct
from typing import Iterator, NamedTuple

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_CONNECTED = 1 << 1     # TCP_ESTABLISHED, also of UDP
_ROOM = 65536

_HEADER = struct.Struct('=IHHII')
_QUERY = struct.Struct('=BBBxI48s')
#: State comes before, the rest of struct inet_diag_msg after it.
_ID_AT, _ID_SIZE = 4, 48
_ID = struct.Struct('>HH16s16s4x')
_COOKIE = struct.Struct('=II')


class UdpSocket(NamedTuple):
    """A UDP socket that is connected.

    :ivar cookie: the kernel's number of it (SO_COOKIE).
    :ivar peer: address, canonical, and port.
    :ivar id: struct inet_diag_sockid.
    """

    family: int
    cookie: int
    peer: tuple[str, int]
    id: bytes


class SockDiag:
    """Requests to the kernel, in the opening thread's network namespace."""

    def __init__(self):
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
            _NETLINK_SOCK_DIAG)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def connected_udp(self) -> Iterator[UdpSocket]:
        """All connected UDP sockets.

        :raises: OSError
        """
        for family in (socket.AF_INET, socket.AF_INET6):
            self._send(_SOCK_DIAG_BY_FAMILY, _DUMP, family, _CONNECTED,
                       bytes(_ID_SIZE))
            yield from [_parse(family, body) for body in self._answers()]

    def destroy(self, found: UdpSocket) -> None:
        """End a socket; who uses it is told ECONNABORTED.

        :raises: OSError: ENOENT if it is gone, EOPNOTSUPP if the kernel
            can't.
        """
        self._send(_SOCK_DESTROY, _ACK, found.family, 0, found.id)
        list(self._answers())

    def _send(self, kind, flags, family, states, sockid):
        body = _QUERY.pack(family, socket.IPPROTO_UDP, 0, states, sockid)
        self._socket.send(_HEADER.pack(
            _HEADER.size + len(body), kind, _REQUEST | flags, 0, 0) + body)

    def _answers(self):
        """Bodies of the messages of an answer, up to its end."""
        while True:
            data = self._socket.recv(_ROOM)
            at = 0
            while at < len(data):
                length, kind = _HEADER.unpack_from(data, at)[:2]
                body = data[at + _HEADER.size:at + length]
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from('=i', body)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield body
                at += (length + 3) // 4 * 4


def _parse(family, body):
    sockid = body[_ID_AT:_ID_AT + _ID_SIZE]
    _, port, _, peer = _ID.unpack_from(sockid)
    low, high = _COOKIE.unpack_from(sockid, _ID.size)
    if family == socket.AF_INET:
        address = ipaddress.IPv4Address(peer[:4])
    else:
        address = ipaddress.IPv6Address(peer)
        address = address.ipv4_mapped or address
    return UdpSocket(family, high << 32 | low, (str(address), port), sockid)
