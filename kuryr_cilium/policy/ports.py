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

"""Ports and protocols as policies write them.

Source: Kubernetes API reference, ``NetworkPolicyPort`` and
``ContainerPort``; RFC 6335, section 5.1, for names of ports.
"""

import re
from typing import Any, Union

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal

Port = Union[model.PortRange, normal.NamedPort]

_NAME = re.compile(r'(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*\Z')


def protocol(value: Any, path: str) -> int:
    """The number of a protocol that has ports."""
    if not isinstance(value, str) or value not in model.PROTOCOLS:
        raise fields.Problem(path, 'use one of %s' %
                             ', '.join(model.PROTOCOLS))
    return model.PROTOCOLS[value]


def name(value: Any, path: str) -> str:
    """The name of a container's port."""
    text = fields.text(value, path)
    if not _NAME.match(text):
        raise fields.Problem(
            path, 'is no name of a port: use at most 15 lower-case letters, '
            'digits and single hyphens, at least one of them a letter; write '
            'a number without quotes')
    return text


def span(number: int, first: Any, last: Any, path: str,
         last_path: str) -> model.PortRange:
    """Some ports of a protocol.

    :param number: of the protocol.
    :param last: None if it is one port only.
    :raises: fields.Problem
    """
    first = fields.number(first, path, 1, 65535)
    if last is None:
        return model.PortRange(number, first, first)
    return model.PortRange(number, first,
                           fields.number(last, last_path, first, 65535))
