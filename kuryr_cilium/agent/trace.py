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


"""What /v1/trace answers: how the loaded entries judge a packet."""

import dataclasses
from typing import Mapping

from kuryr_cilium.datapath import driver
from kuryr_cilium import exceptions
from kuryr_cilium.policy import model

_FIELDS = ('uid', 'direction', 'peer', 'protocol')


def answer(datapath: driver.Driver, query: Mapping[str, str]) -> dict:
    """The fields of a driver.Explanation; ``class_`` is ``class``.

    :param query: uid, direction (ingress or egress), peer (an address),
        protocol (IANA number), and port (of ICMP ``type << 8 | code``) for
        protocols that have one.
    :raises: exceptions.QueryInvalid with the field that is not usable.
    """
    for field in _FIELDS:
        if not query.get(field):
            raise exceptions.QueryInvalid(reason='%s is missing' % field)
    try:
        direction = model.Direction(query['direction'])
    except ValueError:
        raise exceptions.QueryInvalid(
            reason='direction is neither ingress nor egress')
    try:
        found = datapath.explain(
            query['uid'], direction, query['peer'],
            _number(query, 'protocol'), _number(query, 'port'))
    except (ValueError, exceptions.NotFound) as error:
        raise exceptions.QueryInvalid(reason=error)
    answered = dataclasses.asdict(found)
    answered['class'] = answered.pop('class_')
    return answered


def _number(query, field):
    text = query.get(field)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError('%s %.64r is not a number' % (field, text))
    return int(text)
