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


"""What /v1/trace and /v1/backends answer: what the loaded entries say."""

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


def backends(datapath: driver.Driver, query: Mapping[str, str]) -> dict:
    """Which service an address is, and who gets what pods send to it.

    :param query: address, port, protocol (IANA number).
    :returns: ``service`` (None: it is no service's), and ``backends``, each
        with ``address`` and ``port``.
    :raises: exceptions.QueryInvalid with the field that is not usable.
    """
    for field in ('address', 'port', 'protocol'):
        if not query.get(field):
            raise exceptions.QueryInvalid(reason='%s is missing' % field)
    try:
        found = datapath.backends(
            query['address'], _number(query, 'port'),
            _number(query, 'protocol'))
    except ValueError as error:
        raise exceptions.QueryInvalid(reason=error)
    if found is None:
        return {'service': None, 'backends': []}
    return {'service': found.service, 'backends': [
        {'address': address, 'port': port}
        for address, port in found.backends]}


def _number(query, field):
    text = query.get(field)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError('%s %.64r is not a number' % (field, text))
    return int(text)
