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

"""Reads NetworkPolicies of ``networking.k8s.io/v1``.

Source: Kubernetes documentation, "Network Policies"; API reference,
``NetworkPolicySpec``.
"""

from kuryr_cilium.policy.oracle import statements

_TYPES = {'Ingress': statements.INGRESS, 'Egress': statements.EGRESS}
_BOTH = frozenset(_TYPES.values())


def read(obj, cluster):
    """What a NetworkPolicy says: one statement."""
    metadata = obj['metadata']
    namespace = metadata['namespace']
    spec = obj.get('spec')
    unclear = ''
    if not isinstance(spec, dict):
        spec, unclear = {}, 'spec: no object'
        isolates = _BOTH
    else:
        isolates = _BOTH
        try:
            isolates = _isolates(spec)
        except statements.MALFORMED as error:
            unclear = str(error)
    selected = statements.label_selector({})
    try:
        selected = statements.label_selector(spec.get('podSelector'))
    except statements.MALFORMED as error:
        unclear = str(error)
    rules = []
    try:
        statements.only(spec, 'podSelector', 'policyTypes', 'ingress',
                        'egress')
        for direction in (statements.INGRESS, statements.EGRESS):
            for place, item in enumerate(
                    statements.listed(spec.get(direction))):
                rules.append(_rule(item, direction, place, namespace,
                                   cluster))
    except statements.MALFORMED as error:
        unclear = str(error)
    if unclear:
        # Isolates and allows nothing.
        rules = []
    return [statements.Statement(
        'NetworkPolicy/%s/%s' % (namespace, metadata['name']),
        lambda pod: pod['metadata']['namespace'] == namespace and selected(
            pod['metadata'].get('labels') or {}),
        isolates, tuple(rule for rule in rules
                        if rule.direction in isolates), unclear)]


def _isolates(spec):
    """Ingress always, Egress if there are such rules, unless said."""
    given = statements.listed(spec.get('policyTypes'))
    if given:
        return frozenset(_TYPES[name] for name in given)
    if spec.get('egress'):
        return _BOTH
    return frozenset((statements.INGRESS,))


def _rule(item, direction, place, namespace, cluster):
    field = 'from' if direction == statements.INGRESS else 'to'
    statements.only(item, field, 'ports')
    peers = statements.listed(item.get(field))
    ports = statements.listed(item.get('ports'))
    return statements.Rule(
        direction, '%s[%d]' % (direction, place), statements.ALLOW,
        statements.any_of([_peer(peer, namespace, cluster)
                           for peer in peers]) if peers
        else statements.anything,
        statements.any_of([_port(port) for port in ports]) if ports
        else statements.anything)


def _peer(item, namespace, cluster):
    """A block of addresses, or pods by their and their namespace's labels."""
    statements.only(item, 'podSelector', 'namespaceSelector', 'ipBlock')
    pods, namespaces = item.get('podSelector'), item.get('namespaceSelector')
    if item.get('ipBlock') is not None:
        if pods is not None or namespaces is not None:
            raise statements.Unclear('ipBlock and selectors in one peer')
        block = statements.only(item['ipBlock'], 'cidr', 'except')
        return statements.block(block['cidr'], block.get('except'))
    if pods is None and namespaces is None:
        raise statements.Unclear('names no peer')
    wanted = statements.label_selector(pods)
    where = (statements.label_selector(namespaces)
             if namespaces is not None else None)

    def meant(packet):
        pod = packet.peer.pod
        if pod is None:
            return False
        its = pod['metadata']['namespace']
        if where is None:
            if its != namespace:
                return False
        else:
            labels = cluster.namespace_labels(its)
            if labels is None or not where(labels):
                return False
        return wanted(pod['metadata'].get('labels') or {})

    return meant


def _port(item):
    statements.only(item, 'protocol', 'port', 'endPort')
    name = item.get('protocol')
    protocol = statements.PROTOCOLS['TCP' if name is None else name]
    port, end = item.get('port'), item.get('endPort')
    if isinstance(port, str):
        if not port or end is not None:
            raise statements.Unclear('endPort of a named port')
        return statements.named_port(port, {protocol})
    if port is None:
        if end is not None:
            raise statements.Unclear('endPort without port')
        return statements.port_range(protocol)
    first = statements.number(port, 1, 65535)
    last = first if end is None else statements.number(end, first, 65535)
    return statements.port_range(protocol, first, last)
