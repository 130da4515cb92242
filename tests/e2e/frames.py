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

"""Frames byte by byte, well formed and not."""

import ipaddress
import struct

IPV4, IPV6, ARP = 0x0800, 0x86dd, 0x0806
DOT1Q, DOT1AD = 0x8100, 0x88a8
TCP, UDP, ICMPV6 = 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
FIN, SYN, ACK = 1, 2, 16


def mac(text):
    return bytes.fromhex(text.replace(':', ''))


def packed(address):
    return ipaddress.ip_address(address).packed


def checksum(data):
    """RFC 1071."""
    total = sum(struct.unpack('>%dH' % (len(data) // 2 + len(data) % 2),
                              data + b'\0' * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ethernet(source, destination, kind, payload, tags=()):
    """A frame; tags are EtherTypes of VLAN tags, the outermost first."""
    header = mac(destination) + mac(source)
    for tag in tags:
        header += struct.pack('>HH', tag, 7)
    return header + struct.pack('>H', kind) + payload


def ipv4(source, destination, protocol, payload, frag=0, options=b'',
         ident=0x4242):
    """A packet.

    :param frag: flags and offset in units of 8 bytes.
    :param ident: what the fragments of one datagram share.
    """
    length = 20 + len(options)
    fields = [0x40 | length // 4, 0, length + len(payload), ident, frag, 64,
              protocol, 0, packed(source), packed(destination)]
    header = struct.pack('>BBHHHBBH4s4s', *fields) + options
    fields[7] = checksum(header)
    return struct.pack('>BBHHHBBH4s4s', *fields) + options + payload


def ipv6(source, destination, protocol, payload, hops=64):
    return struct.pack('>IHBB16s16s', 6 << 28, len(payload), protocol, hops,
                       packed(source), packed(destination)) + payload


def _summed(source, destination, protocol, payload, offset):
    """A transport payload with its checksum at an offset."""
    pseudo = (packed(source) + packed(destination) +
              struct.pack('>II', len(payload), protocol))
    value = checksum(pseudo + payload) or 0xffff
    return payload[:offset] + struct.pack('>H', value) + payload[offset + 2:]


def udp(source, destination, sport, dport, data):
    payload = struct.pack('>HHHH', sport, dport, 8 + len(data), 0) + data
    return _summed(source, destination, UDP, payload, 6)


def tcp(source, destination, sport, dport, flags, data=b''):
    payload = struct.pack('>HHIIBBHHH', sport, dport, 1000, 0, 5 << 4, flags,
                          65535, 0, 0) + data
    return _summed(source, destination, TCP, payload, 16)


def neighbour(source, destination, kind, target, link, override=True):
    """ND (RFC 4861): 135 solicits, 136 advertises, 134 is a router."""
    if kind == 134:
        body = struct.pack('>BBHBBHII', kind, 0, 0, 64, 0, 1800, 0, 0)
        option = b'\1\1' + mac(link)
    else:
        flags = 0x20000000 if kind == 136 and override else 0
        body = struct.pack('>BBHI', kind, 0, 0, flags) + packed(target)
        option = (b'\1\1' if kind == 135 else b'\2\1') + mac(link)
    return _summed(source, destination, ICMPV6, body + option, 2)


def arp(operation, sender_mac, sender, target_mac, target):
    return (struct.pack('>HHBBH', 1, IPV4, 6, 4, operation) +
            mac(sender_mac) + packed(sender) + mac(target_mac) +
            packed(target))


def extension(following, length=0, content=b''):
    """An IPv6 extension header of (length + 1) * 8 bytes."""
    body = struct.pack('>BB', following, length) + content
    # PadN fills the rest.
    rest = (length + 1) * 8 - len(body)
    return body + (bytes([1, rest - 2]) + bytes(rest - 2) if rest else b'')


def fragment(following, identifier, offset=0, more=False):
    """An IPv6 fragment header; the offset is in units of 8 bytes."""
    return struct.pack('>BBHI', following, 0, offset << 3 | more, identifier)
