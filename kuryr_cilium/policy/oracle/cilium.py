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

"""Reads CiliumNetworkPolicies and their clusterwide kind, of cilium.io/v2.

Source: Cilium documentation, "Layer 3 Policies", "Layer 4 Policies", "Deny
Policies", "Policy Enforcement Modes" and "Using Kubernetes Constructs in
Policy". What needs a proxy or the names that DNS gives is not enforced here:
such a policy isolates and allows nothing.
"""

import functools

from kuryr_cilium.policy.oracle import icmp
from kuryr_cilium.policy.oracle import statements

NAMESPACE = 'io.kubernetes.pod.namespace'
NAMESPACE_LABELS = 'io.cilium.k8s.namespace.labels.'
SERVICE_ACCOUNT = 'io.cilium.k8s.policy.serviceaccount'

_SECTIONS = (
    ('ingress', statements.INGRESS, statements.ALLOW),
    ('ingressDeny', statements.INGRESS, statements.DENY),
    ('egress', statements.EGRESS, statements.ALLOW),
    ('egressDeny', statements.EGRESS, statements.DENY))
_FIELDS = ('endpointSelector', 'nodeSelector', 'description', 'labels',
           'enableDefaultDeny', 'log', *(
               section for section, _, _ in _SECTIONS))
_PEERS = {
    statements.INGRESS: ('fromEndpoints', 'fromEntities', 'fromCIDR',
                         'fromCIDRSet', 'fromNodes'),
    statements.EGRESS: ('toEndpoints', 'toEntities', 'toCIDR', 'toCIDRSet',
                        'toNodes', 'toServices')}
_ANY = frozenset(statements.PROTOCOLS.values())


def read(obj, cluster):
    """What a CiliumNetworkPolicy says: a statement of each of its specs."""
    metadata = obj['metadata']
    return _read(obj, cluster, 'CiliumNetworkPolicy/%s/%s' % (
        metadata['namespace'], metadata['name']), metadata['namespace'])


def read_clusterwide(obj, cluster):
    """What a CiliumClusterwideNetworkPolicy says."""
    return _read(obj, cluster, 'CiliumClusterwideNetworkPolicy/' +
                 obj['metadata']['name'], None)


def _read(obj, cluster, name, namespace):
    specs = []
    if obj.get('spec') is not None:
        specs.append(('', obj['spec']))
    several = obj.get('specs')
    if isinstance(several, list):
        specs += [('specs[%d].' % place, spec)
                  for place, spec in enumerate(several)]
    elif several is not None:
        specs.append(('specs.', several))
    return [_statement(spec, prefix, cluster, name, namespace)
            for prefix, spec in specs]


def _statement(spec, prefix, cluster, name, namespace):
    scope = _Scope(cluster, namespace)
    if not isinstance(spec, dict):
        return scope.unclear(name, {}, prefix, 'no object')
    try:
        statements.only(spec, *_FIELDS)
        if 'nodeSelector' in spec:
            raise statements.Unclear('policies of nodes are not enforced')
        subject = scope.pods(spec['endpointSelector'], subject=True)
        rules = [scope.rule(item, '%s%s[%d]' % (prefix, section, place),
                            direction, action)
                 for section, direction, action in _SECTIONS
                 for place, item in enumerate(
                     statements.listed(spec.get(section)))]
        return statements.Statement(name, subject, _isolates(spec),
                                    tuple(filter(None, rules)))
    except statements.MALFORMED as error:
        return scope.unclear(name, spec, prefix, str(error))


def _isolates(spec):
    """The directions that have rules, unless enableDefaultDeny says."""
    said = statements.only(spec.get('enableDefaultDeny') or {}, 'ingress',
                           'egress')
    found = set()
    for direction in (statements.INGRESS, statements.EGRESS):
        value = said.get(direction)
        if value is None:
            value = any(spec.get(section) for section, its, _ in _SECTIONS
                        if its == direction)
        if value is not True and value is not False:
            raise statements.Unclear('enableDefaultDeny: %r' % (value,))
        if value:
            found.add(direction)
    return frozenset(found)


class _Scope:
    """Reads what is in a policy's namespace; None: in the whole cluster."""

    def __init__(self, cluster, namespace):
        self._cluster = cluster
        self._namespace = namespace

    def rule(self, item, name, direction, action):
        """A rule; None if it has no effect."""
        fields = _PEERS[direction]
        statements.only(item, *fields, 'toPorts', 'icmps')
        given = [field for field in fields if item.get(field) is not None]
        filled = [field for field in given
                  if statements.listed(item[field])]
        if len(filled) > 1:
            raise statements.Unclear('%s in one rule' % ' and '.join(filled))
        if 'toServices' in given and 'toServices' not in filled:
            raise statements.Unclear('toServices is empty')
        ports = statements.listed(item.get('toPorts'))
        types = statements.listed(item.get('icmps'))
        if ports and types:
            raise statements.Unclear('toPorts and icmps in one rule')
        if given != filled:
            # An empty list is nobody.
            peers = statements.nothing
        elif given:
            peers = statements.any_of([
                self._peer(given[0], value) for value in item[given[0]]])
        elif ports or types:
            peers = statements.anything
        else:
            # A rule without anything allows nothing, and isolates.
            peers = statements.nothing
        if ports:
            which = statements.any_of([
                condition for entry in ports for condition in _ports(entry)])
        elif types:
            which = statements.any_of([
                condition for entry in types
                for condition in icmp.read(entry)])
        else:
            which = statements.anything
        return statements.Rule(direction, name, action, peers, which)

    def pods(self, value, subject=False):
        """An endpoint selector, as a function of a pod.

        One that says nothing of namespaces means the policy's own.
        """
        if not isinstance(value, dict):
            raise statements.Unclear('no selector')
        keys = _keys(value)
        if subject and self._namespace is not None and any(
                key == NAMESPACE for _, key in keys):
            # Its own is meant, whatever it says.
            raise statements.Unclear('the namespace of a subject')
        selected = statements.label_selector(_unprefixed(value))
        home = None
        if self._namespace is not None and (subject or not any(
                key == NAMESPACE or key.startswith(NAMESPACE_LABELS)
                for _, key in keys)):
            home = self._namespace

        def meant(pod):
            if home is not None and pod['metadata']['namespace'] != home:
                return False
            return selected(self._labels(pod))

        return meant

    def _labels(self, pod):
        """A pod's labels and what stands beside them for selectors."""
        metadata = pod['metadata']
        labels = dict(metadata.get('labels') or {})
        labels[NAMESPACE] = metadata['namespace']
        labels.pop(SERVICE_ACCOUNT, None)
        if pod['spec'].get('serviceAccountName'):
            labels[SERVICE_ACCOUNT] = pod['spec']['serviceAccountName']
        its = self._cluster.namespace_labels(metadata['namespace']) or {}
        for key, text in its.items():
            labels[NAMESPACE_LABELS + key] = text
        return labels

    def _peer(self, field, value):
        if field in ('fromEndpoints', 'toEndpoints'):
            reserved = _reserved(value)
            if reserved is not None:
                return _entity(reserved, self._cluster)
            meant = self.pods(value)
            return lambda packet: (packet.peer.pod is not None
                                   and meant(packet.peer.pod))
        if field in ('fromEntities', 'toEntities'):
            return _entity(value, self._cluster)
        if field in ('fromCIDR', 'toCIDR'):
            return _outside(_cidr(value))
        if field in ('fromCIDRSet', 'toCIDRSet'):
            statements.only(value, 'cidr', 'except')
            return _outside(statements.block(value['cidr'],
                                             value.get('except')))
        if field in ('fromNodes', 'toNodes'):
            selected = statements.label_selector(_unprefixed(value))
            return lambda packet: packet.peer.node is not None and selected(
                packet.peer.node['metadata'].get('labels') or {})
        return self._service(value)

    def _service(self, value):
        statements.only(value, 'k8sService', 'k8sServiceSelector')
        if len(value) != 1:
            raise statements.Unclear('toServices: one kind of service')
        if 'k8sService' in value:
            named = statements.only(value['k8sService'], 'serviceName',
                                    'namespace')
            name = named['serviceName']
            namespace = named.get('namespace') or None
            return _backend(self._cluster, lambda service: (
                service['metadata']['name'] == name and namespace in (
                    None, service['metadata']['namespace'])))
        chosen = statements.only(value['k8sServiceSelector'], 'selector',
                                 'namespace')
        selected = statements.label_selector(_unprefixed(chosen['selector']))
        namespace = chosen.get('namespace') or None
        return _backend(self._cluster, lambda service: (
            namespace in (None, service['metadata']['namespace']) and
            selected(service['metadata'].get('labels') or {})))

    def unclear(self, name, spec, prefix, why):
        """A policy that is not understood lets nothing more through.

        It isolates its subject in the directions that it is about, and
        denies everything where it has rules that deny.
        """
        subject = self.pods({}, subject=True)
        if spec and 'endpointSelector' not in spec:
            subject = statements.nothing
        try:
            subject = self.pods(spec['endpointSelector'], subject=True)
        except statements.MALFORMED:
            pass
        exempt = (self._cluster.options.exempt_namespaces
                  if self._namespace is None else ())
        isolates = {direction for section, direction, _ in _SECTIONS
                    if spec.get(section)}
        if not spec or set(spec) - set(_FIELDS):
            # It may be about any direction.
            isolates = {statements.INGRESS, statements.EGRESS}
        try:
            isolates |= _isolates(spec)
        except statements.MALFORMED:
            pass
        rules = [statements.Rule(
            direction, prefix + section, action, statements.anything,
            statements.anything) for section, direction, action in _SECTIONS
            if action == statements.DENY and spec.get(section)]
        return statements.Statement(
            name, lambda pod: (pod['metadata']['namespace'] not in exempt
                               and subject(pod)),
            frozenset(isolates), tuple(rules), why)


def _keys(selector):
    """(source, key) of the labels that a selector names."""
    names = list(selector.get('matchLabels') or {})
    names += [item['key'] for item in
              statements.listed(selector.get('matchExpressions'))]
    return [_split(name) for name in names]


def _split(name):
    """The source of a label that stands before a colon."""
    source, colon, key = name.partition(':')
    return (source, key) if colon else ('any', name)


def _unprefixed(selector):
    """A label selector without the sources k8s and any."""
    found = dict(statements.only(selector, 'matchLabels',
                                 'matchExpressions'))
    if any(source not in ('k8s', 'any') for source, _ in _keys(selector)):
        raise statements.Unclear('a label of another source')
    items = statements.listed(found.get('matchExpressions'))
    expressions = [{**item, 'key': _split(item['key'])[1]} for item in items]
    # Two prefixes of one label are two conditions.
    for name, text in (found.get('matchLabels') or {}).items():
        expressions.append({'key': _split(name)[1], 'operator': 'In',
                            'values': [text]})
    return {'matchExpressions': expressions}


def _reserved(selector):
    """The entity that a label of the source reserved names, if one does."""
    keys = _keys(selector)
    if not any(source == 'reserved' for source, _ in keys):
        return None
    values = list((selector.get('matchLabels') or {}).values())
    if len(keys) > 1 or any(values) or not values or keys[0][1] in (
            'all', 'cluster', 'cluster-mesh'):
        raise statements.Unclear('a reserved label')
    return keys[0][1]


def _entity(name, cluster):
    """Source: Cilium documentation, "Entities based".

    What can't be in this cluster is nobody.
    """
    api_server = _backend(cluster, lambda service: (
        service['metadata']['namespace'] == 'default' and
        service['metadata']['name'] == 'kubernetes'))
    inside = statements.any_of([
        lambda packet: not packet.peer.outside, api_server])
    return {
        'cluster': inside,
        'cluster-mesh': inside,
        'kube-apiserver': api_server,
        **dict.fromkeys(('health', 'ingress', 'init', 'unmanaged'),
                        statements.nothing),
        'all': statements.anything,
        'none': statements.nothing,
        'world': lambda packet: packet.peer.outside,
        'world-ipv4': functools.partial(_world, version=4),
        'world-ipv6': functools.partial(_world, version=6),
        'host': lambda packet: _node(packet, own=True),
        'remote-node': lambda packet: _node(packet, own=False),
    }[name]


def _world(packet, version):
    return packet.peer.outside and packet.peer.address.version == version


def _node(packet, own):
    node = packet.peer.node
    return node is not None and own == (
        node['metadata']['name'] == packet.subject['spec'].get('nodeName'))


def _cidr(text):
    """A CIDR, or an address alone."""
    if isinstance(text, str) and '/' not in text:
        text += '/128' if ':' in text else '/32'
    return statements.block(text)


def _outside(block):
    """CIDR rules don't match what the cluster knows by its labels."""
    return lambda packet: packet.peer.outside and block(packet)


def _backend(cluster, meant):
    """Whether the peer is behind a service."""
    services = {(service['metadata']['namespace'],
                 service['metadata']['name'])
                for service in cluster.services if meant(service)}
    addresses = {
        address for piece in cluster.slices
        if (piece['metadata']['namespace'], (
            piece['metadata'].get('labels') or {}).get(
                'kubernetes.io/service-name')) in services
        for endpoint in statements.listed(piece.get('endpoints'))
        for address in statements.listed(endpoint.get('addresses'))}
    return lambda packet: str(packet.peer.address) in addresses


def _ports(entry):
    """Conditions of an item of toPorts; L7 rules can't be enforced."""
    statements.only(entry, 'ports')
    for item in statements.listed(entry.get('ports')):
        yield _port(statements.only(item, 'port', 'endPort', 'protocol'))


def _port(item):
    protocol = item.get('protocol') or 'ANY'
    protocols = (_ANY if protocol == 'ANY'
                 else {statements.PROTOCOLS[protocol]})
    text = item['port']
    if not text.isdigit():
        # Cilium compares names of ports without regard to case.
        return statements.named_port(text.lower(), protocols)
    first, end = statements.number(int(text), 0, 65535), item.get('endPort')
    if first == 0:
        if end:
            raise statements.Unclear('endPort of port 0')
        last = 65535
    else:
        last = statements.number(end or first, first, 65535)
    return statements.any_of([statements.port_range(protocol, first, last)
                              for protocol in protocols])
