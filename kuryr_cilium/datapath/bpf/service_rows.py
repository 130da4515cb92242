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

"""The bytes of the maps of services: layout.py goes on here."""

import struct
from typing import NamedTuple, Optional

from kuryr_cilium.datapath.bpf import layout


class SvcKey(NamedTuple):
    """struct kc_svc_key.

    :ivar address: '0.0.0.0' or '::' stands for every node's.
    :ivar port: 0: every port that has no entry.
    """

    scope: int
    address: str
    port: int
    protocol: int

    SIZE = 24

    def pack(self):
        return (layout.U32.pack(self.scope) + layout.addr16(self.address)
                + struct.pack('>HBx', self.port, self.protocol))

    @classmethod
    def unpack(cls, data):
        return cls(layout.U32.unpack_from(data)[0],
                   layout.addr_text(data[4:20]),
                   *struct.unpack_from('>HB', data, 20))


class Svc(NamedTuple):
    """struct kc_svc."""

    backends: int
    count: int
    number: int
    affinity: int

    SIZE = 16
    FORMAT = struct.Struct('=IIII')

    def pack(self):
        return self.FORMAT.pack(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*cls.FORMAT.unpack(data))


class BackendKey(NamedTuple):
    """struct kc_backend_key."""

    backends: int
    index: int

    SIZE = 8
    FORMAT = struct.Struct('=II')

    def pack(self):
        return self.FORMAT.pack(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*cls.FORMAT.unpack(data))


class Backend(NamedTuple):
    """struct kc_backend.

    :ivar mac: None: it is reached by way of a router.
    """

    address: str
    port: int
    mac: Optional[str]
    network: int

    SIZE = 28

    def pack(self):
        return (layout.addr16(self.address) + struct.pack('>H', self.port)
                + (layout.mac_bytes(self.mac) if self.mac else bytes(6))
                + layout.U32.pack(self.network))

    @classmethod
    def unpack(cls, data):
        mac = data[18:24]
        return cls(layout.addr_text(data[:16]),
                   struct.unpack_from('>H', data, 16)[0],
                   layout.mac_text(mac) if any(mac) else None,
                   layout.U32.unpack_from(data, 24)[0])


class SourceKey(NamedTuple):
    """struct kc_source_key.

    :ivar network: canonical network, '10.0.0.0/8'.
    """

    service: int
    network: str

    SIZE = 24

    def pack(self):
        return layout.pack_prefix(*self)

    @classmethod
    def unpack(cls, data):
        return cls(*layout.unpack_prefix(data))


class AffinityKey(NamedTuple):
    """struct kc_affinity_key."""

    service: int
    client: str

    SIZE = 20

    def pack(self):
        return layout.U32.pack(self.service) + layout.addr16(self.client)

    @classmethod
    def unpack(cls, data):
        return cls(layout.U32.unpack_from(data)[0],
                   layout.addr_text(data[4:20]))


class Affinity(NamedTuple):
    """struct kc_affinity.

    :ivar mac: None: it is reached by way of a router.
    """

    last: int
    address: str
    port: int
    mac: Optional[str]

    SIZE = 32

    def pack(self):
        return (layout.U64.pack(self.last) + layout.addr16(self.address)
                + struct.pack('>H', self.port)
                + (layout.mac_bytes(self.mac) if self.mac else bytes(6)))

    @classmethod
    def unpack(cls, data):
        mac = data[26:32]
        return cls(layout.U64.unpack_from(data)[0],
                   layout.addr_text(data[8:24]),
                   struct.unpack_from('>H', data, 24)[0],
                   layout.mac_text(mac) if any(mac) else None)
