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

"""Frames, byte by byte."""

import ipaddress
import struct

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
HOP, ROUTING, FRAGMENT, AUTH, DESTINATION = 0, 43, 44, 51, 60
FIN, SYN, RST, ACK = 1, 2, 4, 16

ARP_TYPE, VLAN_TYPE, QINQ_TYPE = 0x0806, 0x8100, 0x88a8

_IP_TYPE = {4: 0x0800, 6: 0x86dd}
_ECHO = {(4, False): 8, (4, True): 0, (6, False): 128, (6, True): 129}


def ethernet(source, target, ethertype, payload):
    return (bytes.fromhex(target.replace(':', ''))
            + bytes.fromhex(source.replace(':', ''))
            + struct.pack('>H', ethertype) + payload)


def packed(address):
    return ipaddress.ip_address(address).packed


def family(address):
    return ipaddress.ip_address(address).version


def ipv4(source, target, protocol, payload, options=b'', offset=0, more=False,
         ident=1, ttl=64, total=None, version=4, words=None):
    words = 5 + len(options) // 4 if words is None else words
    head = struct.pack(
        '>BBHHHBBH', version << 4 | words, 0,
        20 + len(options) + len(payload) if total is None else total, ident,
        offset | (0x2000 if more else 0), ttl, protocol, 0)
    head += packed(source) + packed(target) + options
    return head[:10] + checksum(head) + head[12:] + payload


def ipv6(source, target, following, payload, hops=64, length=None, version=6):
    return struct.pack(
        '>IHBB', version << 28, len(payload) if length is None else length,
        following, hops) + packed(source) + packed(target) + payload


def ip(source, target, protocol, payload, **more):
    make = ipv4 if family(source) == 4 else ipv6
    return make(source, target, protocol, payload, **more)


def extension(following, size=8, third=0, fourth=0):
    """A hop-by-hop, routing or destination header."""
    return (bytes((following, size // 8 - 1, third, fourth))
            + bytes(size - 4))


def authentication(following):
    return bytes((following, 4)) + bytes(22)


def fragment(following, offset=0, more=False, ident=1):
    return struct.pack('>BBHI', following, 0, offset << 3 | more, ident)


def tcp(sport, dport, flags=SYN, payload=b'', pseudo=b''):
    head = struct.pack('>HHIIBBHHH', sport, dport, 1, 1, 5 << 4, flags, 1024,
                       0, 0)
    if pseudo:
        sum_ = checksum(pseudo + struct.pack('>BBH', 0, TCP, len(head)
                                             + len(payload)) + head + payload)
        head = head[:16] + sum_ + head[18:]
    return head + payload


def udp(sport, dport, payload=b'data'):
    return struct.pack('>HHHH', sport, dport, 8 + len(payload), 0) + payload


def checked_udp(source, target, sport, dport, payload=b'data'):
    """A datagram with its checksum."""
    data = udp(sport, dport, payload)
    sum_ = checksum(packed(source) + packed(target)
                    + struct.pack('>II', len(data), UDP) + data)
    return data[:6] + sum_ + data[8:]


def sctp(sport, dport, chunk=1):
    return struct.pack('>HHIIBBH', sport, dport, 0, 0, chunk, 0, 4)


def icmp(type_, code=0, rest=bytes(4), payload=b'data'):
    head = struct.pack('>BBH', type_, code, 0) + rest + payload
    return head[:2] + checksum(head) + head[4:]


def icmp6(source, target, type_, code=0, rest=bytes(4), payload=b''):
    head = struct.pack('>BBH', type_, code, 0) + rest + payload
    pseudo = packed(source) + packed(target) + struct.pack('>II', len(head),
                                                           ICMP6)
    return head[:2] + checksum(pseudo + head) + head[4:]


def echo(source, target, ident, reply=False):
    """The ICMP message of an echo; and its protocol."""
    version = family(source)
    type_ = _ECHO[version, reply]
    rest = struct.pack('>HH', ident, 1)
    if version == 4:
        return ICMP, icmp(type_, rest=rest)
    return ICMP6, icmp6(source, target, type_, rest=rest)


def error(source, target, quoted):
    """A port unreachable, or for IPv6 a packet too big."""
    if family(source) == 4:
        return ICMP, icmp(3, 3, payload=quoted)
    return ICMP6, icmp6(source, target, 2, rest=struct.pack('>I', 1280),
                        payload=quoted)


def option(type_, mac):
    """A link-layer address in an ND message."""
    return bytes((type_, 1)) + bytes.fromhex(mac.replace(':', ''))


def arp(operation, smac, source, target, tmac='00:00:00:00:00:00',
        hardware=1, protocol=0x0800):
    return (struct.pack('>HHBBH', hardware, protocol, 6, 4, operation)
            + bytes.fromhex(smac.replace(':', '')) + packed(source)
            + bytes.fromhex(tmac.replace(':', '')) + packed(target))


def frame(smac, dmac, packet):
    """The frame of an IP packet."""
    return ethernet(smac, dmac, _IP_TYPE[packet[0] >> 4], packet)


def checksum(data):
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack('>%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return struct.pack('>H', ~total & 0xffff)


class Parsed:
    """A frame that came out of a program.

    :ivar packet: from the IP header on.
    :ivar payload: from the transport header on.
    :ivar flow: source and destination, ports (None where there are none).
    """

    def __init__(self, data):
        self.dmac, self.smac = data[:6].hex(':'), data[6:12].hex(':')
        self.packet = data[14:]
        if self.packet[0] >> 4 == 4:
            size = (self.packet[0] & 15) * 4
            self.protocol = self.packet[9]
            addresses = self.packet[12:16], self.packet[16:20]
            self._head = self.packet[:size]
        else:
            size, self.protocol = 40, self.packet[6]
            addresses = self.packet[8:24], self.packet[24:40]
            while self.protocol == DESTINATION:
                self.protocol = self.packet[size]
                size += (self.packet[size + 1] + 1) * 8
            self._head = b''
        self.payload = self.packet[size:]
        self._pseudo = b''.join(addresses)
        ports = (struct.unpack_from('>HH', self.payload)
                 if self.protocol in (TCP, UDP, SCTP) else (None, None))
        self.flow = (*(str(ipaddress.ip_address(a)) for a in addresses),
                     *ports)
        if self.protocol == TCP:
            self.ack, = struct.unpack_from('>I', self.payload, 8)
            self.flags = self.payload[13]
        elif self.protocol == UDP:
            self.sum, = struct.unpack_from('>H', self.payload, 6)

    def wrong_sums(self):
        """Which checksums are wrong."""
        wrong = []
        if self._head and checksum(self._head) != bytes(2):
            wrong.append('IP')
        if self.protocol == SCTP or self.protocol == UDP and not self.sum:
            return wrong
        pseudo = b'' if self.protocol == ICMP else self._pseudo + struct.pack(
            '>II', len(self.payload), self.protocol)
        if checksum(pseudo + self.payload) != bytes(2):
            wrong.append('transport')
        return wrong
