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

"""Ports and ICMP types in a rule of Cilium's kinds of policy.

Source: Cilium documentation, "Layer 4 Policies".
"""

import re
from typing import Any, Mapping, Optional

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import icmp
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import ports

_NUMBER = re.compile(r'(0|[1-9][0-9]{0,4})\Z')
_ANY = 'ANY'
_L7 = ('rules', 'terminatingTLS', 'originatingTLS', 'serverNames', 'listener')


def parse(obj: Mapping[str, Any], path: str, deny: bool,
          problems: list[fields.Problem]) -> Optional[frozenset[ports.Port]]:
    """The ports and ICMP types of a rule.

    :param deny: the rule denies, and so can't say anything of layer 7.
    :returns: None if the rule says nothing of them; an empty set if what it
        says matches nothing.
    :raises: fields.Problem
    """
    given = [field for field in ('toPorts', 'icmps')
             if obj.get(field) not in (None, [])]
    if not given:
        return None
    if len(given) > 1:
        raise fields.Problem(path + '.icmps', 'can\'t be combined with '
                             'toPorts: write a rule for each')
    field, = given
    found: set[ports.Port] = set()
    for item in fields.each(
            obj[field], '%s.%s' % (path, field), problems,
            lambda item, item_path: (
                _icmps(item, item_path, problems) if field == 'icmps' else
                _ports(item, item_path, deny, problems))):
        found |= item
    return frozenset(found)


def _ports(value, path, deny, problems):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('ports',) if deny else ('ports', *_L7))
    for field in _L7:
        _plain(obj.get(field), '%s.%s' % (path, field))
    found = set()
    for item in fields.each(obj.get('ports'), path + '.ports', problems,
                            _port):
        found |= item
    return found


def _plain(value, path):
    """Refuse what only a proxy could enforce; empty rules say nothing."""
    if isinstance(value, Mapping) and path.endswith('.rules'):
        if not any(value.values()):
            return
    elif value is None:
        return
    raise fields.Problem(path, 'layer 7 is not supported yet: remove it, or '
                         'allow the ports without it')


def _port(value, path):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('port', 'endPort', 'protocol'))
    name = obj.get('protocol')
    if name in (None, '', _ANY):
        numbers = tuple(model.PROTOCOLS.values())
    elif isinstance(name, str) and name in model.PROTOCOLS:
        numbers = (model.PROTOCOLS[name],)
    else:
        raise fields.Problem(path + '.protocol', 'use one of %s, ANY; write '
                             'ICMP as icmps' % ', '.join(model.PROTOCOLS))
    text = obj.get('port')
    if not isinstance(text, str):
        raise fields.Problem(path + '.port', 'must be text: write the number '
                             'in quotes, "0" for every port')
    last = obj.get('endPort')
    if last is not None:
        last = fields.number(last, path + '.endPort', 0, 65535) or None
    if not _NUMBER.match(text):
        # A name is one port: Cilium ignores endPort then.
        return {normal.NamedPort(number, ports.name(
            text.lower(), path + '.port')) for number in numbers}
    first = int(text)
    if first:
        return {ports.span(number, first, last, path + '.port',
                           path + '.endPort') for number in numbers}
    if last is not None:
        raise fields.Problem(path + '.endPort', 'needs a port, the number of '
                             'the first of the range: port 0 means every '
                             'port')
    return {model.PortRange(number) for number in numbers}


def _icmps(value, path, problems):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('fields',))
    return set(fields.each(obj.get('fields'), path + '.fields', problems,
                           _icmp))


def _icmp(value, path):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('family', 'type'))
    family = obj.get('family')
    if family in (None, ''):
        family = 'IPv4'
    if not isinstance(family, str) or family not in icmp.FAMILIES:
        raise fields.Problem(path + '.family', 'use IPv4 or IPv6')
    number = obj.get('type')
    if isinstance(number, str):
        if _NUMBER.match(number):
            number = int(number)
        elif number in icmp.FAMILIES[family].types:
            number = icmp.FAMILIES[family].types[number]
        else:
            raise fields.Problem(path + '.type', 'is no type of %s\'s ICMP: '
                                 'use a number from 0 to 255, or one of %s' % (
                                     family, ', '.join(
                                         icmp.FAMILIES[family].types)))
    number = fields.number(number, path + '.type', 0, 255)
    # Any code of the type.
    return model.PortRange(icmp.FAMILIES[family].protocol, number << 8,
                           number << 8 | 255)
