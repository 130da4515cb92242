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

"""Label selectors: their canonical form, and what they match.

Source: Kubernetes API reference, ``LabelSelector`` (meta/v1).
"""

import dataclasses
from typing import Any, Mapping, Union

from kuryr_cilium.policy import fields

IN = 'In'
NOT_IN = 'NotIn'
EXISTS = 'Exists'
DOES_NOT_EXIST = 'DoesNotExist'

#: The label that the API server sets on each namespace: its name.
NAMESPACE_NAME = 'kubernetes.io/metadata.name'


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on one label.

    :ivar values: sorted, without doubles; empty for EXISTS and
        DOES_NOT_EXIST.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """A label that is absent is not In, and is NotIn, anything."""
        if self.operator == IN:
            return labels.get(self.key) in self.values
        if self.operator == NOT_IN:
            return labels.get(self.key) not in self.values
        return (self.key in labels) == (self.operator == EXISTS)


#: A label selector: every requirement must hold; none matches everything.
LabelSelector = tuple[Requirement, ...]

EVERYTHING: LabelSelector = ()


def parse(value: Any, path: str) -> LabelSelector:
    """A label selector's canonical form: two that mean the same are equal.

    :param value: the API's LabelSelector; None and {} select everything.
    :param path: where it stands, for the message.
    :raises: fields.Problem
    """
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('matchLabels', 'matchExpressions'))
    found = set()
    key_path = path + '.matchLabels'
    for key, text in fields.mapping(obj.get('matchLabels'), key_path).items():
        found.add(Requirement(fields.text(key, key_path), IN,
                              (fields.text(text, key_path),)))
    path += '.matchExpressions'
    for item, item_path in fields.items(obj.get('matchExpressions'), path):
        found.add(_expression(fields.mapping(item, item_path), item_path))
    return tuple(sorted(found))


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """True if the labels meet every requirement."""
    return all(requirement.matches(labels) for requirement in selector)


def anchors(selector: LabelSelector) -> tuple[Union[str, tuple], ...]:
    """Where an index finds what a selector may match.

    :returns: keys ``(label, value)`` or ``label``; whatever the selector
        matches has at least one of them. Empty if it has no such key (it
        matches by what is absent only, or everything).
    """
    best: tuple[Union[str, tuple], ...] = ()
    for requirement in selector:
        if requirement.operator == IN:
            keys: tuple = tuple((requirement.key, value)
                                for value in requirement.values)
            if not best or isinstance(best[0], str) or len(keys) < len(best):
                best = keys
        elif requirement.operator == EXISTS and not best:
            best = (requirement.key,)
    return best


def _expression(obj, path):
    fields.only(obj, path, ('key', 'operator', 'values'))
    key = fields.text(obj.get('key'), path + '.key')
    if not key:
        raise fields.Problem(path + '.key', 'name a label')
    operator = obj.get('operator')
    values = tuple(sorted({
        fields.text(value, value_path) for value, value_path
        in fields.items(obj.get('values'), path + '.values')}))
    if operator in (IN, NOT_IN):
        if not values:
            raise fields.Problem(path + '.values', '%s needs at least one '
                                 'value' % operator)
    elif operator in (EXISTS, DOES_NOT_EXIST):
        if values:
            raise fields.Problem(path + '.values', '%s takes no values: '
                                 'remove them' % operator)
    else:
        raise fields.Problem(path + '.operator', 'use one of In, NotIn, '
                             'Exists, DoesNotExist')
    return Requirement(key, operator, values)
