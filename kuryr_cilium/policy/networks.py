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

"""Blocks of addresses: from text to their canonical form.

Source: Kubernetes API reference, ``IPBlock``; Cilium documentation, "IP/CIDR
based" policies.
"""

import ipaddress
from typing import Any, Sequence, Union

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import model

_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

#: IPv4 addresses written as IPv6: packets have them as IPv4 only.
_MAPPED = ipaddress.IPv6Network('::ffff:0:0/96')

#: No network takes more characters.
_LONGEST = 64


def network(value: Any, path: str, alone: bool = False) -> _Network:
    """A network; bits of a host are masked off, as the API server allows.

    :param alone: an address without the length of a prefix is one too.
    :raises: fields.Problem
    """
    text = fields.text(value, path)
    address, slash, length = text.partition('/')
    whole = (length.isascii() and length.isdigit()) if slash else alone
    if len(text) > _LONGEST or not whole or '%' in address:
        raise _problem(path)
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise _problem(path) from None
    if found.version == 6 and found.subnet_of(_MAPPED):
        raise fields.Problem(path, 'is IPv4 written as IPv6: write it as '
                             'IPv4')
    return found


def block(cidr: _Network, excepts: Sequence[_Network] = (),
          outside: bool = False) -> model.Block:
    """A block without the union of its excepts.

    Parts that do not lie in it take nothing away.
    """
    inside = [part for part in excepts
              if part.version == cidr.version and part.overlaps(cidr)]
    if any(cidr.subnet_of(part) for part in inside):
        inside = [cidr]
    return model.Block(str(cidr), tuple(
        sorted(map(str, ipaddress.collapse_addresses(inside)))), outside)


def _problem(path):
    return fields.Problem(path, 'write a network as ADDRESS/LENGTH, like '
                          '10.0.0.0/8 or fd00::/8, without leading zeros')
