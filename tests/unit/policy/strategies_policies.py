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

"""Random policies of every kind, weighted towards what goes wrong.

The same few addresses, ports, labels and names meet again and again: blocks
that are nested, equal or that touch, ranges of ports that do, one name for
several ports.
"""

import ipaddress

from hypothesis import strategies as st

from tests.unit.policy import builders
from tests.unit.policy import strategies

KINDS = ('NetworkPolicy', 'ClusterNetworkPolicy', 'CiliumNetworkPolicy',
         'CiliumClusterwideNetworkPolicy')
NAMESPACES = strategies.NAMESPACES + ('kube-system',)
NAMES = ('web', 'dns')
PROTOCOLS = ('TCP', 'UDP', 'SCTP')
NODE_ADDRESSES = {
    'node-a': ('192.0.2.1', 'fd51::1'), 'node-b': ('192.0.2.2', 'fd51::2'),
    'node-c': ('192.0.2.3', 'fd51::3')}
OUTSIDE = ('203.0.113.7', '198.51.100.1', '2001:db8::5', '2001:db8:1::1')

V4_BLOCKS = (
    '0.0.0.0/0', '10.0.0.0/8', '10.0.0.0/24', '10.0.0.3/24', '10.0.0.0/29',
    '10.0.0.2/31', '10.0.0.3/32', '10.0.0.4/30', '192.0.2.0/24',
    '192.0.2.1/32', '192.0.2.2/31', '203.0.113.0/24', '203.0.113.0/25',
    '203.0.113.7/32', '128.0.0.0/1')
V6_BLOCKS = (
    '::/0', 'fd00::/64', 'fd00::/126', 'fd00::4/128', 'fd00::4/127',
    'fd51::/64', 'fd51::1/128', '2001:db8::/32', '2001:db8::/64',
    '2001:db8::5/128', '8000::/1')

_BLOCKS = st.one_of(st.sampled_from(V4_BLOCKS), st.sampled_from(V6_BLOCKS))
_PORT = st.sampled_from(strategies.PORTS)
_PROTOCOL = st.sampled_from(PROTOCOLS)


def lists(items, most=2):
    """At least one."""
    return st.lists(items, min_size=1, max_size=most)


def weighted(*pairs):
    """Strategies by how often each is wanted."""
    return st.sampled_from([strategy for strategy, weight in pairs
                            for _ in range(weight)]).flatmap(
        lambda strategy: strategy)


#: Of subjects, and of peers that shall be there.
_BROAD = weighted((st.just({}), 1), (strategies.LABEL_SELECTORS, 1))


def _excepts(cidr, inside):
    pool = V4_BLOCKS if ':' not in cidr else V6_BLOCKS
    if inside:
        whole = ipaddress.ip_network(cidr, strict=False)
        pool = [text for text in pool if ipaddress.ip_network(
            text, strict=False).subnet_of(whole)]
    return st.lists(st.sampled_from(pool), max_size=3)


def blocks(inside=False):
    """cidr and except; for Cilium the latter are inside of the former."""
    return _BLOCKS.flatmap(lambda cidr: st.builds(
        lambda excepts: {'cidr': cidr, **(
            {'except': excepts} if excepts else {})},
        _excepts(cidr, inside)))


# NetworkPolicy

_PEERS = weighted((strategies.PEERS, 3), (st.builds(
    lambda block: {'ipBlock': block}, blocks()), 3))


@st.composite
def _ports(draw):
    item = draw(strategies.optional(protocol=_PROTOCOL))
    choice = draw(st.integers(0, 6))
    if choice > 4:
        item['port'] = draw(st.sampled_from(NAMES))
    elif choice:
        item['port'] = draw(_PORT)
        if draw(st.booleans()):
            item['endPort'] = draw(st.sampled_from(
                [port for port in strategies.PORTS if port >= item['port']]))
    return item


def _rules(peers):
    return strategies.some(strategies.optional(**{
        peers: strategies.some(_PEERS, 2),
        'ports': strategies.some(_ports(), 3)}), 3)


NETWORK_POLICIES = st.builds(
    lambda spec, selector: {**spec, 'podSelector': selector},
    strategies.optional(policyTypes=strategies.TYPES,
                        ingress=_rules('from'), egress=_rules('to')),
    _BROAD)


# ClusterNetworkPolicy

_CLUSTER_PODS = weighted(
    (st.just({'namespaces': {}}), 2),
    (st.builds(lambda where: {'namespaces': where},
               strategies.NAMESPACE_SELECTORS), 2),
    (st.builds(lambda where, pods: {'pods': {'namespaceSelector': where,
                                             'podSelector': pods}},
               _BROAD, strategies.LABEL_SELECTORS), 3))
_NODES = st.builds(lambda labels: {'nodes': labels}, _BROAD)
_NETWORKS = st.builds(lambda found: {'networks': found},
                      st.lists(_BLOCKS, min_size=1, max_size=2, unique=True))
_EGRESS_PEERS = weighted((_CLUSTER_PODS, 3), (_NETWORKS, 3), (_NODES, 2))
_UNKNOWN_PEERS = st.sampled_from(
    ({}, {'domainNames': ['example.org']}, {'planets': {}}))


@st.composite
def _cluster_protocols(draw, named):
    choice = draw(st.integers(0, 7))
    if choice == 7 and named:
        return {'destinationNamedPort': draw(st.sampled_from(NAMES))}
    protocol = draw(_PROTOCOL).lower()
    if not choice and not draw(st.integers(0, 7)):
        # As an older schema leaves what it does not know.
        return {protocol: {}}
    first = draw(_PORT)
    ends = [port for port in strategies.PORTS if port > first]
    if choice < 4 or not ends:
        return {protocol: {'destinationPort': {'number': first}}}
    return {protocol: {'destinationPort': {'range': {
        'start': first, 'end': draw(st.sampled_from(ends))}}}}


@st.composite
def _cluster_rules(draw, field):
    peers = draw(lists(_CLUSTER_PODS if field == 'from' else _EGRESS_PEERS))
    if not draw(st.integers(0, 31)):
        peers.append(draw(_UNKNOWN_PEERS))
    rule = {'action': draw(st.sampled_from(('Accept', 'Deny', 'Pass'))),
            field: peers}
    named = all(set(peer) <= {'pods', 'namespaces'} for peer in peers)
    if draw(st.booleans()):
        rule['protocols'] = draw(lists(_cluster_protocols(named)))
    return rule


CLUSTER_NETWORK_POLICIES = st.builds(
    lambda tier, priority, subject, rules: {
        'tier': tier, 'priority': priority, 'subject': subject, **rules},
    st.sampled_from(('Admin', 'Baseline')),
    st.sampled_from((0, 5, 5, 6, 1000)), _CLUSTER_PODS,
    strategies.optional(ingress=lists(_cluster_rules('from'), 4),
                        egress=lists(_cluster_rules('to'), 4)))


# CiliumNetworkPolicy

_PREFIXES = ('', 'k8s:', 'any:')
_NAMESPACE = 'io.kubernetes.pod.namespace'
_NAMESPACE_LABEL = 'io.cilium.k8s.namespace.labels.'
_ACCOUNT = 'io.cilium.k8s.policy.serviceaccount'


@st.composite
def _endpoints(draw, elsewhere=True):
    """A selector with prefixes, of other namespaces too."""
    selector = draw(_BROAD)
    prefix = draw(st.sampled_from(_PREFIXES))
    labels = {prefix + key: value for key, value in
              (selector.get('matchLabels') or {}).items()}
    found = [{**item, 'key': prefix + item['key']} for item in
             selector.get('matchExpressions') or ()]
    choice = draw(st.integers(0, 11))
    if choice == 0:
        labels[prefix + _ACCOUNT] = draw(st.sampled_from(('x', 'default')))
    elif elsewhere and choice < 4:
        labels[prefix + _NAMESPACE] = draw(st.sampled_from(NAMESPACES))
    elif elsewhere and choice == 4:
        found.append({'key': prefix + _NAMESPACE, 'operator': 'Exists'})
    elif elsewhere and choice == 5:
        labels[prefix + _NAMESPACE_LABEL + draw(st.sampled_from(
            strategies.KEYS))] = draw(st.sampled_from(strategies.VALUES))
    made = {}
    if labels:
        made['matchLabels'] = labels
    if found:
        made['matchExpressions'] = found
    return made


_ENTITIES = st.sampled_from((
    'all', 'world', 'world-ipv4', 'world-ipv6', 'cluster', 'host',
    'remote-node', 'none') + ('kube-apiserver',) * 3)
_SERVICES = st.one_of(
    st.builds(lambda name, namespace: {'k8sService': {
        'serviceName': name, 'namespace': namespace}},
        st.sampled_from(('s0', 's1')), st.sampled_from(NAMESPACES)),
    st.builds(lambda labels, namespace: {'k8sServiceSelector': {
        'selector': labels, 'namespace': namespace}},
        strategies.LABEL_SELECTORS, st.sampled_from(NAMESPACES)))


@st.composite
def _cilium_ports(draw):
    item = {}
    choice = draw(st.integers(0, 7))
    if choice > 5:
        item['port'] = draw(st.sampled_from(NAMES))
    elif choice == 0:
        item['port'] = '0'
    else:
        first = draw(_PORT)
        item['port'] = str(first)
        if draw(st.booleans()):
            item['endPort'] = draw(st.sampled_from(
                [port for port in strategies.PORTS if port >= first]))
    if draw(st.integers(0, 3)):
        item['protocol'] = draw(st.sampled_from(PROTOCOLS + ('ANY',)))
    return item


_ICMPS = st.builds(
    lambda family, kind: {'family': family, 'type': kind},
    st.sampled_from(('IPv4', 'IPv6')),
    st.sampled_from((8, 13, 128, 'EchoRequest', '8')))


@st.composite
def _cilium_rules(draw, direction, allow):
    word = 'from' if direction == 'ingress' else 'to'
    kinds = [('Endpoints', _endpoints(), 4), ('Entities', _ENTITIES, 3),
             ('CIDR', _BLOCKS, 2), ('CIDRSet', blocks(inside=True), 3),
             ('Nodes', strategies.LABEL_SELECTORS, 1)]
    if direction == 'egress':
        kinds.append(('Services', _SERVICES, 2))
    rule = {}
    kind, items = draw(st.sampled_from(
        [(name, found) for name, found, weight in kinds
         for _ in range(weight)] + [(None, None)] * 3))
    if kind:
        rule[word + kind] = draw(strategies.seldom(st.just([]),
                                                   lists(items)))
    choice = draw(st.integers(0, 31))
    if choice > 20:
        rule['toPorts'] = [{'ports': found}
                           for found in draw(lists(lists(_cilium_ports())))]
    elif choice > 16 and kind != 'Services':
        rule['icmps'] = [{'fields': draw(lists(_ICMPS))}]
    elif choice == 1 and allow:
        rule['toPorts'] = [{'ports': [{'port': '80', 'protocol': 'TCP'}],
                            'rules': {'http': [{'method': 'GET'}]}}]
    elif choice == 2 and allow and direction == 'egress':
        rule = {'toFQDNs': [{'matchName': 'example.org'}]}
    elif choice in (3, 4, 5) and direction == 'egress':
        # The API server may be a pod, whose ports have names.
        rule = {'toEntities': ['kube-apiserver'], 'toPorts': [{'ports': [
            {'port': draw(st.sampled_from(NAMES))}]}]}
    return rule


def _cilium_spec(elsewhere):
    sections = {
        direction + ('' if allow else 'Deny'): st.lists(
            _cilium_rules(direction, allow), max_size=3 if allow else 2)
        for direction in ('ingress', 'egress') for allow in (True, False)}
    return st.builds(
        lambda selector, spec, default: {
            'endpointSelector': selector, **spec, **(
                {'enableDefaultDeny': default} if default else {})},
        _endpoints(elsewhere), strategies.optional(**sections),
        strategies.seldom(st.fixed_dictionaries({}, optional={
            'ingress': st.booleans(), 'egress': st.booleans()}), st.none())
    ).map(lambda spec: {key: value for key, value in spec.items()
                        if value is not None})


@st.composite
def policies(draw, number, kinds=KINDS):
    """(kind, object)."""
    kind = draw(st.sampled_from(kinds))
    name = 'q%d' % number
    namespace = draw(st.sampled_from(NAMESPACES))
    if kind == 'NetworkPolicy':
        return kind, builders.policy(name, draw(NETWORK_POLICIES), namespace)
    if kind == 'ClusterNetworkPolicy':
        return kind, _clusterwide(name, draw(CLUSTER_NETWORK_POLICIES))
    clusterwide = kind == 'CiliumClusterwideNetworkPolicy'
    found = draw(st.lists(_cilium_spec(clusterwide), min_size=1, max_size=2))
    obj = (_clusterwide(name, found[0]) if clusterwide
           else builders.policy(name, found[0], namespace))
    if len(found) > 1:
        del obj['spec']
        obj['specs'] = found
    return kind, obj


def _clusterwide(name, spec):
    return {'metadata': {'uid': 'policy/' + name, 'name': name},
            'spec': spec}
