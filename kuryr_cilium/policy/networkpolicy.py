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

"""NetworkPolicy (networking.k8s.io/v1) into the normal form.

Source: Kubernetes API reference, ``NetworkPolicySpec``.

What can't be expressed never opens a hole: such a policy isolates what it
selects, allows nothing of it, and says why.
"""

from typing import Any, Mapping

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors

KIND = 'NetworkPolicy'

_TYPES = {'Ingress': model.Direction.INGRESS,
          'Egress': model.Direction.EGRESS}
_BOTH = frozenset(model.Direction)
_PEERS = {model.Direction.INGRESS: 'from', model.Direction.EGRESS: 'to'}


def parse(obj: Mapping[str, Any]) -> normal.Policy:
    """Parse one object as the API server gives it.

    Never raises for what stands in ``spec``: the policy's problems say what
    can't be expressed.
    """
    metadata = obj['metadata']
    namespace = metadata['namespace']
    problems = []
    subject = selectors.Pods(namespace=namespace)
    isolates = _BOTH
    rules: list[normal.Rule] = []
    try:
        spec = fields.mapping(obj.get('spec'), 'spec')
        isolates = _isolates(spec)
    except fields.Problem as problem:
        problems.append(problem)
        spec = obj.get('spec')
        spec = spec if isinstance(spec, Mapping) else {}
    try:
        subject = selectors.Pods(
            labels.parse(spec.get('podSelector'), 'spec.podSelector'),
            namespace)
    except fields.Problem as problem:
        problems.append(problem)
    try:
        fields.only(spec, 'spec',
                    ('podSelector', 'policyTypes', 'ingress', 'egress'))
    except fields.Problem as problem:
        problems.append(problem)
    for direction in model.Direction:
        try:
            path = 'spec.' + direction.value
            for item, item_path in fields.items(spec.get(direction.value),
                                                path):
                _rule(item, item_path, direction, namespace, rules, problems)
        except fields.Problem as problem:
            problems.append(problem)
    return normal.Policy(
        uid=metadata['uid'],
        name='/'.join((KIND, namespace, metadata['name'])),
        subject=subject, isolates=isolates,
        # Rules of a direction that policyTypes leaves out have no effect.
        rules=() if problems else tuple(
            rule for rule in rules if rule.direction in isolates),
        problems=tuple(problems))


def _isolates(spec):
    """Ingress always, Egress if there are such rules, unless said."""
    found = set()
    for value, path in fields.items(spec.get('policyTypes'),
                                    'spec.policyTypes'):
        if not isinstance(value, str) or value not in _TYPES:
            raise fields.Problem(path, 'use Ingress or Egress')
        found.add(_TYPES[value])
    if not found:
        found.add(model.Direction.INGRESS)
        if spec.get('egress'):
            found.add(model.Direction.EGRESS)
    return frozenset(found)


def _rule(value, path, direction, namespace, rules, problems):
    """Append a rule, or what is wrong with it."""
    peers_field = _PEERS[direction]
    try:
        obj = fields.mapping(value, path)
        fields.only(obj, path, (peers_field, 'ports'))
    except fields.Problem as problem:
        problems.append(problem)
        return
    peers = _each(obj, path, peers_field, problems,
                  lambda item, item_path: _peer(item, item_path, namespace))
    ports = _each(obj, path, 'ports', problems, _port)
    rules.append(normal.Rule(direction, peers, ports))


def _each(obj, path, field, problems, parse_item):
    """Parse a list of alternatives; nil and empty mean no condition."""
    found = set()
    try:
        for item, item_path in fields.items(obj.get(field),
                                            '%s.%s' % (path, field)):
            try:
                found.add(parse_item(item, item_path))
            except fields.Problem as problem:
                problems.append(problem)
    except fields.Problem as problem:
        problems.append(problem)
    return frozenset(found) or None


def _peer(value, path, namespace):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('podSelector', 'namespaceSelector', 'ipBlock'))
    if obj.get('ipBlock') is not None:
        raise fields.Problem(
            path + '.ipBlock', 'blocks of addresses are not supported yet: '
            'name the peers by podSelector and namespaceSelector, or leave '
            'the peers out to allow every address')
    pods = obj.get('podSelector')
    namespaces = obj.get('namespaceSelector')
    if pods is None and namespaces is None:
        raise fields.Problem(path, 'names no peer: give a podSelector or a '
                             'namespaceSelector')
    pods = labels.parse(pods, path + '.podSelector')
    if namespaces is None:
        return selectors.Pods(pods, namespace)
    return selectors.Pods(pods, None, labels.parse(
        namespaces, path + '.namespaceSelector'))


def _port(value, path):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('protocol', 'port', 'endPort'))
    name = obj.get('protocol')
    name = 'TCP' if name is None else name
    if not isinstance(name, str) or name not in model.PROTOCOLS:
        raise fields.Problem(path + '.protocol', 'use one of %s' %
                             ', '.join(model.PROTOCOLS))
    protocol = model.PROTOCOLS[name]
    port, end = obj.get('port'), obj.get('endPort')
    if port is None:
        if end is not None:
            raise fields.Problem(path + '.endPort', 'needs port, the first '
                                 'of the range')
        return model.PortRange(protocol)
    if isinstance(port, str):
        raise fields.Problem(path + '.port', 'named ports are not supported '
                             'yet: give the number of the port')
    first = fields.number(port, path + '.port', 1, 65535)
    if end is None:
        return model.PortRange(protocol, first, first)
    return model.PortRange(protocol, first, fields.number(
        end, path + '.endPort', first, 65535))
