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
from kuryr_cilium.policy import networks
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import ports
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
    problems: list[fields.Problem] = []
    subject = selectors.Pods(namespace=namespace)
    isolates = _BOTH
    rules: list[normal.Rule] = []
    spec: Mapping[str, Any] = {}
    with fields.noted(problems):
        spec = fields.mapping(obj.get('spec'), 'spec')
        isolates = _isolates(spec)
    with fields.noted(problems):
        subject = selectors.Pods(
            labels.parse(spec.get('podSelector'), 'spec.podSelector'),
            namespace)
    with fields.noted(problems):
        fields.only(spec, 'spec',
                    ('podSelector', 'policyTypes', 'ingress', 'egress'))
    for direction in model.Direction:
        rules += fields.each(
            spec.get(direction.value), 'spec.' + direction.value, problems,
            lambda item, path: _rule(item, path, direction, namespace,
                                     problems))
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


def _rule(value, path, direction, namespace, problems):
    """A rule; nil and empty lists mean no condition."""
    peers_field = _PEERS[direction]
    obj = fields.mapping(value, path)
    fields.only(obj, path, (peers_field, 'ports'))
    peers = fields.each(obj.get(peers_field), '%s.%s' % (path, peers_field),
                        problems, lambda item, item_path: _peer(
                            item, item_path, namespace, problems))
    which = fields.each(obj.get('ports'), path + '.ports', problems, _port)
    return normal.Rule(direction, frozenset(peers) or None,
                       frozenset(which) or None,
                       name=path.removeprefix('spec.'))


def _peer(value, path, namespace, problems):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('podSelector', 'namespaceSelector', 'ipBlock'))
    pods = obj.get('podSelector')
    namespaces = obj.get('namespaceSelector')
    if obj.get('ipBlock') is not None:
        if pods is not None or namespaces is not None:
            raise fields.Problem(path + '.ipBlock', 'stands alone: give it a '
                                 'peer of its own, without podSelector and '
                                 'namespaceSelector')
        return _block(obj['ipBlock'], path + '.ipBlock', problems)
    if pods is None and namespaces is None:
        raise fields.Problem(path, 'names no peer: give a podSelector, a '
                             'namespaceSelector or an ipBlock')
    pods = labels.parse(pods, path + '.podSelector')
    if namespaces is None:
        return selectors.Pods(pods, namespace)
    return selectors.Pods(pods, None, labels.parse(
        namespaces, path + '.namespaceSelector'))


def _block(value, path, problems):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('cidr', 'except'))
    cidr = networks.network(obj.get('cidr'), path + '.cidr')
    return selectors.Block(networks.block(cidr, fields.each(
        obj.get('except'), path + '.except', problems, networks.network)))


def _port(value, path):
    obj = fields.mapping(value, path)
    fields.only(obj, path, ('protocol', 'port', 'endPort'))
    protocol = model.PROTOCOLS['TCP']
    if obj.get('protocol') is not None:
        protocol = ports.protocol(obj['protocol'], path + '.protocol')
    port, end = obj.get('port'), obj.get('endPort')
    if end is not None and not isinstance(port, int):
        raise fields.Problem(path + '.endPort', 'needs a port, the number of '
                             'the first of the range')
    if port is None:
        return model.PortRange(protocol)
    if isinstance(port, str):
        return normal.NamedPort(protocol, ports.name(port, path + '.port'))
    return ports.span(protocol, port, end, path + '.port', path + '.endPort')
