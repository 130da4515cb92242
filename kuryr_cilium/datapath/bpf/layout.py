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

"""The bytes of the maps: kc_maps.h as Python sees it.

Every class packs to and unpacks from exactly the bytes of the struct of the
same name; a unit test compares sizes, offsets and numbers with the BTF of
the object. Addresses are canonical text, IPv4 is kept as ::ffff:a.b.c.d.
"""

import enum
import ipaddress
import socket
import struct
from typing import NamedTuple

VERSION = 1

WORDS = 4
ADDRESSES = 8
GATEWAYS = 2

#: Bits of a kc_cidr or kc_source key before the address: a number.
CIDR_BASE = 32
#: Lengths of kc_rs_port keys: any, a protocol, and that plus a port prefix.
PORT_ANY = 40
PORT_PROTOCOL = 48

#: What an IPv4 address begins with.
_MAPPED = b'\0' * 10 + b'\xff\xff'


class Reason(enum.IntEnum):
    """Why a packet was dropped; the numbers never change."""

    ALLOWED = 0
    NO_ENDPOINT = 1
    NOT_READY = 2
    POLICY = 3
    POLICY_DENY = 4
    POLICY_CHANGED = 5
    NO_CONNECTION = 6
    CT_FULL = 7
    SPOOF_MAC = 8
    SPOOF_IP = 9
    SPOOF_ARP = 10
    SPOOF_ND = 11
    VLAN = 12
    ETHERTYPE = 13
    TRUNCATED = 14
    MALFORMED = 15
    EXTENSIONS = 16
    FRAGMENT = 17
    FRAGMENT_OVERLAP = 18
    ND = 19
    NOT_OURS = 20
    ICMP_UNRELATED = 21
    TABLES = 22
    HOST_FRAME = 23
    CT_QUOTA = 24
    SOURCE_ROUTE = 25
    INTERNAL = 26
    NO_BACKEND = 27
    SERVICE_TUPLE = 28
    SOURCE_RANGE = 29
    NO_LOCAL_BACKEND = 30
    SOURCE_PORTS = 31

    @property
    def text(self):
        """The name as operators see it: 'no-endpoint'."""
        return self.name.lower().replace('_', '-')


#: Length of kc_drops.
REASONS = 64


class Verdict(enum.IntEnum):
    ALLOW = 1
    DENY = 2
    PASS = 3


class Direction(enum.IntEnum):
    INGRESS = 0
    EGRESS = 1


class Meta(enum.IntEnum):
    """Indices of kc_meta; every value is 64 bits."""

    EPOCH = 0
    NEXT_ENDPOINT = 1
    NEXT_CLASS = 2
    NEXT_RULESET = 3
    NEXT_SPACE = 4
    NEXT_NETWORK = 5
    CT_QUOTA = 6
    EVENT_RATE = 7
    NEXT_BACKENDS = 8
    NODE_PORTS = 9


class EndpointFlag(enum.IntFlag):
    FASTPATH = 1


class CtFlag(enum.IntFlag):
    HOST = 1
    OWN = 2
    AS_WORLD = 4
    TOMBSTONE = 8
    REPLIED = 16
    CLOSING = 32
    FIN_IN = 64
    FIN_OUT = 128
    ALIAS = 256
    HAIRPIN = 512
    OPEN = 1024


#: From here on, endpoints in kc_frag are none: fragments on uplinks.
FRAGMENTS_OUTSIDE = 0xfffffffe

U32 = struct.Struct('=I')
U64 = struct.Struct('=Q')


def addr16(address: str) -> bytes:
    """The 16 bytes of an address.

    :raises: ValueError if it is none.
    """
    try:
        if ':' in address:
            return socket.inet_pton(socket.AF_INET6, address)
        return _MAPPED + socket.inet_pton(socket.AF_INET, address)
    except OSError:
        raise ValueError('%r is no address' % address) from None


def addr_text(data: bytes) -> str:
    """The canonical text of 16 bytes."""
    parsed = ipaddress.IPv6Address(data)
    return str(parsed.ipv4_mapped or parsed)


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(':', ''))


def mac_text(data: bytes) -> str:
    return data.hex(':')


def pack_prefix(number: int, text: str) -> bytes:
    """The key of an LPM trie: plen, a big-endian number, an address."""
    network = ipaddress.ip_network(text)
    length = network.prefixlen + (96 if network.version == 4 else 0)
    return (U32.pack(CIDR_BASE + length) + struct.pack('>I', number)
            + addr16(str(network.network_address)))


def unpack_prefix(data: bytes) -> tuple[int, str]:
    """A number and a canonical network."""
    length = U32.unpack_from(data)[0] - CIDR_BASE
    address = addr_text(data[8:24])
    if ':' not in address:
        length -= 96
    return (struct.unpack_from('>I', data, 4)[0],
            '%s/%d' % (address, length))


class AddrKey(NamedTuple):
    """struct kc_addr_key; the key of kc_addr and kc_local."""

    space: int
    address: str

    SIZE = 20

    def pack(self):
        return U32.pack(self.space) + addr16(self.address)

    @classmethod
    def unpack(cls, data):
        return cls(U32.unpack_from(data)[0], addr_text(data[4:20]))


class CidrKey(NamedTuple):
    """struct kc_cidr_key.

    :ivar network: canonical network, '10.0.0.0/8'.
    """

    space: int
    network: str

    SIZE = 24

    def pack(self):
        return pack_prefix(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*unpack_prefix(data))


class Peer(NamedTuple):
    """struct kc_peer; the value of kc_addr and kc_cidr."""

    class_: int
    entity: int

    SIZE = 8
    FORMAT = struct.Struct('=IB3x')

    def pack(self):
        return self.FORMAT.pack(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*cls.FORMAT.unpack(data))


class Local(NamedTuple):
    """struct kc_local."""

    endpoint: int
    kc_ifindex: int
    mac: str

    SIZE = 16
    FORMAT = struct.Struct('=II6s2x')

    def pack(self):
        return self.FORMAT.pack(self.endpoint, self.kc_ifindex,
                                mac_bytes(self.mac))

    @classmethod
    def unpack(cls, data):
        endpoint, ifindex, mac = cls.FORMAT.unpack(data)
        return cls(endpoint, ifindex, mac_text(mac))


class Endpoint(NamedTuple):
    """struct kc_endpoint."""

    space4: int
    space6: int
    in_ruleset: int
    out_ruleset: int
    kc_ifindex: int
    kq_ifindex: int
    network: int
    flags: int
    mac: str
    gateway_macs: tuple[str, ...]
    addresses: tuple[str, ...]

    SIZE = 192
    FORMAT = struct.Struct('=7IH6s12s16x128s')

    def pack(self):
        gateways = b''.join(mac_bytes(m) for m in self.gateway_macs)
        addresses = b''.join(addr16(a) for a in self.addresses)
        if len(gateways) > 12 or len(addresses) > 128:
            raise ValueError('an endpoint has at most %d addresses and %d '
                             'gateways' % (ADDRESSES, GATEWAYS))
        return self.FORMAT.pack(*self[:8], mac_bytes(self.mac), gateways,
                                addresses)

    @classmethod
    def unpack(cls, data):
        *numbers, mac, gateways, addresses = cls.FORMAT.unpack(data)
        return cls(
            *numbers, mac_text(mac),
            tuple(mac_text(gateways[i:i + 6]) for i in range(0, 12, 6)
                  if any(gateways[i:i + 6])),
            tuple(addr_text(addresses[i:i + 16]) for i in range(0, 128, 16)
                  if any(addresses[i:i + 16])))


class RsPeerKey(NamedTuple):
    """struct kc_rs_peer_key."""

    ruleset: int
    class_: int
    page: int

    SIZE = 12
    FORMAT = struct.Struct('=III')

    def pack(self):
        return self.FORMAT.pack(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*cls.FORMAT.unpack(data))


class RsPortKey(NamedTuple):
    """struct kc_rs_port_key.

    :ivar length: PORT_ANY, PORT_PROTOCOL, or that plus the prefix length.
    """

    length: int
    ruleset: int
    page: int
    protocol: int
    port: int

    SIZE = 12

    def pack(self):
        return U32.pack(self.length) + struct.pack(
            '>IBBH', self.ruleset, self.page, self.protocol, self.port)

    @classmethod
    def unpack(cls, data):
        return cls(U32.unpack_from(data)[0],
                   *struct.unpack_from('>IBBH', data, 4))


class Bits(NamedTuple):
    """struct kc_bits; the value of kc_rs_peer and kc_rs_port."""

    words: tuple[int, int, int, int]
    pages: int

    SIZE = 40
    FORMAT = struct.Struct('=4QH6x')

    def pack(self):
        return self.FORMAT.pack(*self.words, self.pages)

    @classmethod
    def unpack(cls, data):
        *words, pages = cls.FORMAT.unpack(data)
        return cls(tuple(words), pages)


class RsGroupKey(NamedTuple):
    """struct kc_rs_group_key."""

    ruleset: int
    bit: int

    SIZE = 8
    FORMAT = struct.Struct('=II')

    def pack(self):
        return self.FORMAT.pack(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*cls.FORMAT.unpack(data))


class RsGroup(NamedTuple):
    """struct kc_rs_group."""

    verdict: int
    flags: int
    next_tier: int
    l7set: int
    rule_id: int

    SIZE = 12
    FORMAT = struct.Struct('=BBHII')

    def pack(self):
        return self.FORMAT.pack(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*cls.FORMAT.unpack(data))


class CtKey(NamedTuple):
    """struct kc_ct_key."""

    endpoint: int
    protocol: int
    local: int
    lport: int
    rport: int
    raddr: str

    SIZE = 28

    def pack(self):
        return (struct.pack('=IBB', self.endpoint, self.protocol, self.local)
                + struct.pack('>HHH', self.lport, self.rport, 0)
                + addr16(self.raddr))

    @classmethod
    def unpack(cls, data):
        return cls(*struct.unpack_from('=IBB', data),
                   *struct.unpack_from('>HH', data, 6),
                   addr_text(data[12:28]))


class Ct(NamedTuple):
    """struct kc_ct.

    :ivar nat: the service's address as the pod knows it, of an alias the
        backend's; '::' if there is none.
    :ivar asked_port: of nat, if nothing is replaced: the socket asked it.
    """

    last: int
    bytes_in: int
    bytes_out: int
    packets_in: int
    packets_out: int
    epoch: int
    rule_id: int
    flags: int
    direction: int
    asked_port: int = 0
    nat_port: int = 0
    nat: str = '::'

    SIZE = 64
    FORMAT = struct.Struct('=3Q4IHBx')
    PORTS = struct.Struct('>HH')

    def pack(self):
        return (self.FORMAT.pack(*self[:9]) + self.PORTS.pack(*self[9:11])
                + addr16(self.nat))

    @classmethod
    def unpack(cls, data):
        return cls(*cls.FORMAT.unpack_from(data),
                   *cls.PORTS.unpack_from(data, 44), addr_text(data[48:64]))


class Event(NamedTuple):
    """struct kc_event.

    :ivar service: number of the service that the packet was sent to, or 0.
    """

    time: int
    endpoint: int
    ruleset: int
    bit: int
    length: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    ethertype: int
    protocol: int
    direction: int
    reason: int
    service: int = 0

    SIZE = 72
    #: bit of an event that no rule group decided.
    NO_BIT = 0xffffffff

    def pack(self):
        return (struct.pack('=Q4I', *self[:5]) + addr16(self.source)
                + addr16(self.destination) + struct.pack('>3H', *self[7:10])
                + struct.pack('=3B3xI', *self[10:]))

    @classmethod
    def unpack(cls, data):
        return cls(*struct.unpack_from('=Q4I', data),
                   addr_text(data[24:40]), addr_text(data[40:56]),
                   *struct.unpack_from('>3H', data, 56),
                   *struct.unpack_from('=3B3xI', data, 62))
