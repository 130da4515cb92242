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

"""Scenarios: policies and changes, and who then reaches whom.

Each file of ``scenarios/`` holds a list::

    - name: What a person would call it
      steps:
      - apply:
        - kind: NetworkPolicy
          in: x                     # its namespace, if the kind has one
          name: closed              # "policy" if not said
          spec: {podSelector: {}}
        check: [deny * -> x/*]      # see expect.py

A step does what it says of ``apply``, ``delete`` (``KIND NAMESPACE/NAME``, or
``KIND NAME``) and ``label`` (``pod x/a`` or ``namespace x``: labels to set,
null takes one away), in this order, and is then checked. ``${x/a.v4}`` in a
policy is an address of x/a, and likewise of nodes and outsiders.
"""

import dataclasses
import pathlib
import re
from typing import Any, Callable, Mapping

import yaml

from tests.conformance import api
from tests.conformance import cast
from tests.conformance import expect

FOLDER = pathlib.Path(__file__).with_name('scenarios')

POLICIES = ('NetworkPolicy', 'ClusterNetworkPolicy', 'CiliumNetworkPolicy',
            'CiliumClusterwideNetworkPolicy')
#: What else gives policies their meaning.
MEANING = ('Pod', 'Namespace', 'Node', 'Service', 'EndpointSlice')
CLUSTERWIDE = ('ClusterNetworkPolicy', 'CiliumClusterwideNetworkPolicy')
_ADDRESS = re.compile(r'\$\{(\S+)\.v([46])\}')


class BadScenario(ValueError):
    """A scenario that can't be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What is done, and who then reaches whom.

    :ivar apply: API objects.
    :ivar delete: (kind, namespace or None, name).
    :ivar label: ('Pod' or 'Namespace', name) -> labels, None to take away.
    """

    apply: tuple[Mapping[str, Any], ...]
    delete: tuple[tuple[str, str | None, str], ...]
    label: Mapping[tuple[str, str], Mapping[str, str | None]]
    check: tuple[expect.Line, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A sequence of steps.

    :ivar file: where it stands, without its suffix.
    """

    file: str
    name: str
    steps: tuple[Step, ...]


def load(text: str = '') -> list[Scenario]:
    """All scenarios whose file or name has a text in it.

    :raises: BadScenario
    """
    found = []
    for path in sorted(FOLDER.glob('*.yaml')):
        for item in yaml.safe_load(path.read_text()):
            name = item.get('name', '')
            try:
                _only(item, ('name', 'steps'))
                found.append(Scenario(path.stem, name, tuple(
                    _step(step) for step in item['steps'])))
            except (KeyError, TypeError, ValueError) as error:
                raise BadScenario('%s: %r: %s: %s' % (
                    path.name, name, type(error).__name__, error)) from error
    return [scenario for scenario in found if text.lower() in
            ('%s: %s' % (scenario.file, scenario.name)).lower()]


def fill(obj: Any, address: Callable[[str, int], str]) -> Any:
    """An object with the addresses that it names.

    :param address: who and IP version -> address.
    """
    if isinstance(obj, Mapping):
        return {key: fill(value, address) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [fill(value, address) for value in obj]
    if isinstance(obj, str):
        return _ADDRESS.sub(
            lambda match: address(match[1], int(match[2])), obj)
    return obj


def _only(item, fields):
    for field in item:
        if field not in fields:
            raise BadScenario('%r is none of %s' % (field, ', '.join(fields)))


def _step(item):
    _only(item, ('apply', 'delete', 'label', 'check'))
    return Step(
        tuple(_object(obj) for obj in item.get('apply', ())),
        tuple(_reference(text) for text in item.get('delete', ())),
        {_labelled(text): labels
         for text, labels in item.get('label', {}).items()},
        tuple(expect.parse(line) for line in item['check']))


def _object(item):
    _only(item, ('kind', 'in', 'name', 'spec', 'specs'))
    kind = item['kind']
    metadata = {'name': item.get('name', 'policy')}
    if ('in' in item) == (kind in CLUSTERWIDE):
        raise BadScenario('%s: "in" is its namespace' % kind)
    if 'in' in item:
        metadata['namespace'] = item['in']
    return {'apiVersion': api.KINDS[kind][0], 'kind': kind,
            'metadata': metadata,
            **{field: item[field] for field in ('spec', 'specs')
               if field in item}}


def _reference(text):
    kind, _space, name = text.partition(' ')
    if kind not in api.KINDS:
        raise BadScenario('%r: no such kind' % text)
    if kind in CLUSTERWIDE:
        return kind, None, name
    namespace, _slash, name = name.partition('/')
    return kind, namespace, name


def _labelled(text):
    kind, _space, name = text.partition(' ')
    kinds = {'pod': ('Pod', cast.pods()),
             'namespace': ('Namespace', cast.NAMESPACES)}
    if kind not in kinds or name not in kinds[kind][1]:
        raise BadScenario('%r: is no pod and no namespace' % text)
    return kinds[kind][0], name
