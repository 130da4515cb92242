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

"""Types of a compiled object, from its BTF (Documentation/bpf/btf.rst)."""

import struct

_STRUCT, _UNION, _ENUM = 4, 5, 6
_ARRAY, _FUNC_PROTO, _VAR, _DATASEC = 3, 13, 14, 15
_DECL_TAG, _ENUM64 = 17, 19
_INT = 1
#: What follows a type's header: bytes in all, bytes for each of vlen.
_TAIL = {_INT: (4, 0), _ARRAY: (12, 0), _STRUCT: (0, 12), _UNION: (0, 12),
         _ENUM: (0, 8), _FUNC_PROTO: (0, 8), _VAR: (4, 0),
         _DATASEC: (0, 12), _DECL_TAG: (4, 0), _ENUM64: (0, 12)}


def section(data, name):
    """A section of a 64-bit little-endian ELF file."""
    start, = struct.unpack_from('<Q', data, 40)
    size, count, names = struct.unpack_from('<HHH', data, 58)
    headers = [struct.unpack_from('<IIQQQQ', data, start + i * size)
               for i in range(count)]
    table = headers[names][4]
    for header in headers:
        at = table + header[0]
        if data[at:data.index(b'\0', at)].decode() == name:
            return data[header[4]:header[4] + header[5]]
    raise KeyError(name)


class Types:
    """Structs and enums of a compiled object.

    :ivar structs: name -> (size, {member: byte offset}).
    :ivar enums: name -> {constant: value}.
    """

    def __init__(self, path):
        with open(path, 'rb') as stream:
            data = section(stream.read(), '.BTF')
        head, types, length, strings, _ = struct.unpack_from('<IIIII', data, 4)
        self._names = data[head + strings:]
        self.structs = {}
        self.enums = {}
        at, end = head + types, head + types + length
        while at < end:
            name, info, size = struct.unpack_from('<III', data, at)
            at += 12
            kind, vlen = info >> 24 & 0x1f, info & 0xffff
            if kind == _STRUCT:
                self.structs[self._name(name)] = size, self._members(
                    data, at, vlen, info >> 31)
            elif kind == _ENUM:
                self.enums[self._name(name)] = {
                    self._name(constant): value for constant, value in (
                        struct.unpack_from('<Ii', data, at + i * 8)
                        for i in range(vlen))}
            fixed, each = _TAIL.get(kind, (0, 0))
            at += fixed + each * vlen

    def _members(self, data, at, vlen, bitfields):
        found = {}
        for i in range(vlen):
            name, _, offset = struct.unpack_from('<III', data, at + i * 12)
            if bitfields:
                offset &= 0xffffff
            found[self._name(name)] = offset // 8
        return found

    def _name(self, offset):
        return self._names[offset:self._names.index(b'\0', offset)].decode()
