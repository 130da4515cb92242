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

"""Members of every kind of selector, whatever comes in whatever order.

Random clusters of few names and addresses, so that owners of addresses, named
ports and labels collide. What a world has become by changes is compared with
a world that has seen the last state only, and the members with what a slow
reading of the objects says.
"""

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.policy import entities
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import model
from kuryr_cilium.policy import named
from kuryr_cilium.policy import normal
from kuryr_cilium.policy import selectors
from kuryr_cilium.policy import world
from tests import base
from tests.unit.policy import builders

SETTINGS = hypothesis.settings(
    deadline=None, max_examples=150, derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck))

NAMESPACES = ('n1', 'n2')
ADDRESSES = tuple('10.0.0.%d' % number for number in range(5))
LABELS = st.dictionaries(st.sampled_from('ab'), st.sampled_from('xy'))
HTTP, DNS = normal.NamedPort(6, 'http'), normal.NamedPort(17, 'dns')

REQUIREMENTS = st.lists(st.builds(
    labels.Requirement, st.sampled_from('ab'),
    st.sampled_from((labels.IN, labels.NOT_IN)),
    st.sampled_from((('x',), ('x', 'y')))), max_size=1).map(tuple)
PODS = st.builds(
    selectors.Pods, REQUIREMENTS,
    st.sampled_from((None,) + NAMESPACES), REQUIREMENTS).map(
        lambda found: found if found.namespace is None else selectors.Pods(
            found.pods, found.namespace))
BLOCKS = st.builds(
    lambda *block: selectors.Block(model.Block(*block)),
    st.sampled_from(('10.0.0.0/30', '0.0.0.0/0')),
    st.sampled_from(((), ('10.0.0.1/32',))), st.booleans())
PEERS = st.one_of(
    PODS, BLOCKS, st.builds(selectors.Nodes, REQUIREMENTS),
    st.builds(selectors.Services, st.sampled_from((None,) + NAMESPACES),
              st.sampled_from((None, 's1', 's2')), REQUIREMENTS),
    st.builds(selectors.Entity, st.sampled_from((
        entities.CLUSTER, entities.HOST, entities.REMOTE_NODE,
        entities.WORLD))))
PORTS = st.sampled_from((None, frozenset([HTTP]), frozenset(
    [HTTP, DNS, model.PortRange(6, 1, 9)])))
RULES = st.builds(
    normal.Rule, st.sampled_from(model.Direction),
    st.one_of(st.none(), st.frozensets(PEERS, min_size=1, max_size=2)),
    PORTS, st.sampled_from(model.Verdict), st.sampled_from((
        model.Tier.ADMIN, model.Tier.NETWORK_POLICY, model.Tier.BASELINE)))


@st.composite
def policies(draw, uid):
    return tuple(normal.Policy(
        uid, 'Test/%s' % uid, draw(st.one_of(st.none(), PODS)),
        draw(st.frozensets(st.sampled_from(model.Direction))),
        tuple(draw(st.lists(RULES, max_size=3))))
        for _number in range(draw(st.integers(1, 2))))


@st.composite
def pods(draw, number):
    obj = builders.pod(
        'p%d' % number, draw(st.sampled_from(NAMESPACES)), draw(LABELS),
        number=number, uid='p%d' % number,
        addresses=sorted(draw(st.sets(
            st.sampled_from(ADDRESSES), max_size=2))),
        node=draw(st.sampled_from(('node-a', 'node-b'))),
        created=draw(st.sampled_from(('', '2025'))),
        deleted=draw(st.sampled_from((None, None, '2025'))))
    obj['spec']['containers'] = [{'ports': draw(st.lists(st.sampled_from((
        {'name': 'http', 'containerPort': 80},
        {'name': 'http', 'containerPort': 8080},
        {'name': 'dns', 'containerPort': 53, 'protocol': 'UDP'})),
        max_size=2))}]
    return obj


@st.composite
def services(draw, number):
    obj = builders.namespace(draw(st.sampled_from(('s1', 's2'))),
                             draw(LABELS))
    obj['metadata'].update(uid='s%d' % number,
                           namespace=draw(st.sampled_from(NAMESPACES)))
    return obj


@st.composite
def slices(draw, number):
    addresses = draw(st.sets(st.sampled_from(
        ADDRESSES + ('not an address',)), max_size=3))
    service = draw(st.sampled_from((None, 's1', 's2')))
    metadata = {
        'uid': 'e%d' % number, 'name': 'e%d' % number,
        'namespace': draw(st.sampled_from(NAMESPACES)),
        'labels': {'kubernetes.io/service-name': service} if service else {}}
    return {'metadata': metadata,
            'endpoints': [{'addresses': sorted(addresses)}]}


@st.composite
def nodes(draw, number):
    obj = builders.node('node-%s' % 'ab'[number], *draw(st.sets(
        st.sampled_from(ADDRESSES), max_size=1)))
    obj['metadata']['labels'] = draw(LABELS)
    return obj


@st.composite
def clusters(draw):
    """Calls that set a cluster: key -> (method, argument ...)."""
    found = {}
    for name, most, strategy in (('pod', 4, pods), ('node', 2, nodes),
                                 ('service', 2, services),
                                 ('slice', 2, slices)):
        for number in range(draw(st.integers(0, most))):
            found[name, number] = ('set_' + name, draw(strategy(number)))
    for name in NAMESPACES:
        found['namespace', name] = ('set_namespace', builders.namespace(
            name, draw(LABELS)))
    for number in range(draw(st.integers(1, 3))):
        uid = 'q%d' % number
        found['policy', number] = ('set_policy', 'Test', {
            'metadata': {'uid': uid}, 'policies': draw(policies(uid))})
    return found


def deletion(call):
    """The call that takes back what another one has set."""
    method, *_, obj = call
    meta = obj['metadata']
    return (method.replace('set_', 'delete_'),
            meta['uid'] if 'uid' in meta else meta['name'])


def content(found):
    return {host: dict(found.view(host)) for host in found.hosts()}


class Truth:
    """Which addresses selectors mean, read from the objects."""

    def __init__(self, cluster):
        self.objects = {name: [call[-1] for key, call in cluster.items()
                               if key[0] == name]
                        for name in ('pod', 'node', 'service', 'slice',
                                     'namespace')}

    def members(self, peer):
        """{(address, owner)} of a selector's members."""
        if isinstance(peer, selectors.Pods):
            return self._owned(obj for obj in self.objects['pod']
                               if self._selected(peer, obj))
        if isinstance(peer, selectors.Named):
            meant = (peer.name, {6: 'TCP', 17: 'UDP'}[peer.protocol],
                     peer.port)
            owned = self._owned(
                obj for obj in self.objects['pod']
                if self._selected(peer.pods, obj) and any(
                    (port['name'], port.get('protocol', 'TCP'),
                     port['containerPort']) == meant
                    for port in obj['spec']['containers'][0]['ports']))
            if peer.behind is not None:
                owned &= self.members(peer.behind)
            return {(address, owner) for address, owner in owned
                    if named.inside([address], peer.within)}
        if isinstance(peer, selectors.Nodes):
            return self._owned(
                obj for obj in self.objects['node'] if labels.matches(
                    peer.nodes, obj['metadata']['labels']))
        if isinstance(peer, selectors.Services):
            return {(address, self._owner(address)) for address in {
                address for service in self.objects['service']
                if self._meant(peer, service['metadata'])
                for address in self._backends(service['metadata'])}}
        return set()

    def _owned(self, objects):
        return {(address, owner) for obj in objects
                for owner, addresses, _rank in (self._claim(obj),)
                for address in addresses if self._owner(address) == owner}

    def _claim(self, obj):
        meta = obj['metadata']
        if 'uid' not in meta:
            return 'node/' + meta['name'], [
                item['address'] for item in obj['status']['addresses'][1:]], (
                    2, meta['name'])
        text = (meta.get('annotations') or {}).get(builders.vif.ANNOTATION)
        return meta['uid'], builders.vif.facts(
            text).addresses if text else (), (
                'deletionTimestamp' not in meta, meta['creationTimestamp'],
                meta['uid'])

    def _owner(self, address):
        claims = [self._claim(obj) for kind in ('pod', 'node')
                  for obj in self.objects[kind]]
        return max(((rank, owner) for owner, addresses, rank in claims
                    if address in addresses),
                   default=(None, 'address/' + address))[1]

    def _selected(self, peer, obj):
        meta = obj['metadata']
        found, = (item for item in self.objects['namespace']
                  if item['metadata']['name'] == meta['namespace'])
        return peer.matches(meta['namespace'], found['metadata']['labels'],
                            meta['labels'])

    def _meant(self, peer, meta):
        return (peer.namespace in (None, meta['namespace']) and
                peer.name in (None, meta['name']) and
                labels.matches(peer.services, meta['labels']))

    def _backends(self, meta):
        return {address for obj in self.objects['slice']
                if obj['metadata']['namespace'] == meta['namespace'] and
                obj['metadata']['labels'].get(
                    'kubernetes.io/service-name') == meta['name']
                for address in obj['endpoints'][0]['addresses']
                if address in ADDRESSES}


class TestPeers(base.TestCase):

    def setUp(self):
        super().setUp()
        self.patch(kinds, 'PARSERS', {
            'Test': lambda obj, options: obj['policies']})

    def fill(self, calls):
        found = world.World()
        for method, *arguments in calls:
            getattr(found, method)(*arguments)
        return found

    @SETTINGS
    @hypothesis.given(clusters(), clusters(), st.data())
    def test_any_way_leads_to_the_same_world(self, first, last, data):
        calls = list(last.values()) + [
            deletion(call) for key, call in first.items() if key not in last]
        calls += data.draw(st.lists(st.sampled_from(calls), max_size=2))
        found = self.fill(first.values())
        before = content(found)
        for method, *arguments in data.draw(st.permutations(calls)):
            changes = getattr(found, method)(*arguments)
            after = content(found)
            self.assertEqual(
                {host for host in before.keys() | after.keys()
                 if before.get(host, {}) != after.get(host, {})},
                changes.hosts)
            before = after
        self.assertEqual(content(self.fill(last.values())), before)
        # And back to nothing.
        for call in data.draw(st.permutations(list(last.values()))):
            method, argument = deletion(call)
            getattr(found, method)(argument)
        self.assertEqual({}, content(found))
        self.assertEqual({}, found._peers.members._held)
        self.assertEqual({}, found._peers._index._matchers)

    @SETTINGS
    @hypothesis.given(clusters())
    def test_members_are_the_true_ones(self, cluster):
        found = self.fill(cluster.values())
        truth = Truth(cluster)
        peers = {peer.id: peer for call in cluster.values()
                 if call[0] == 'set_policy'
                 for policy in call[-1]['policies']
                 for rule in named.resolve(
                     policy, lambda key: (80, 8080, 53)).rules
                 for peer in rule.peers or ()}
        for host in found.hosts():
            view = found.view(host)
            for obj in view.values():
                if not isinstance(obj, model.Selector):
                    continue
                self.assertEqual(sorted(obj.members), list(obj.members))
                members = {(address, member.uid) for member in obj.members
                           for address in member.addresses}
                for member in obj.members:
                    self.assertEqual(
                        entities.Entity.REMOTE_NODE
                        if member.uid.startswith('node/') else
                        entities.Entity.WORLD
                        if member.uid.startswith('address/') else
                        entities.Entity.POD, member.entity)
                if obj.id == entities.CLUSTER:
                    expected = truth._owned(truth.objects['pod'])
                elif obj.id == entities.REMOTE_NODE:
                    expected = truth._owned(truth.objects['node'])
                else:
                    expected = truth.members(peers[obj.id])
                self.assertEqual(expected, members, obj)

    @SETTINGS
    @hypothesis.given(clusters())
    def test_views_are_whole(self, cluster):
        found = self.fill(cluster.values())
        for host in found.hosts():
            view = found.view(host)
            for obj in view.values():
                if isinstance(obj, model.RuleSet):
                    for group in obj.groups:
                        for peer in group.peers or ():
                            for needed in found._peers.sent(peer):
                                self.assertIn('selector:' + needed, view)
                if isinstance(obj, model.Endpoint):
                    for name in (obj.ingress, obj.egress):
                        self.assertTrue(name == model.ALLOW_ALL or
                                        'ruleset:' + name in view)


class TestNamedPorts(base.TestCase):

    def setUp(self):
        super().setUp()
        self.world = world.World()
        self.client = self.pod('client', 1)
        self.web = self.pod('web', 2, 80)
        self.other = self.pod('other', 3, 8080)

    def pod(self, name, number, port=None):
        obj = builders.pod(name, labels={'app': name}, number=number)
        if port is not None:
            obj['spec']['containers'] = [{'name': 'c', 'ports': [
                {'name': 'http', 'containerPort': port}]}]
        self.world.set_pod(obj)
        return obj

    def apply(self, **spec):
        self.world.set_policy('NetworkPolicy', builders.policy('p', spec))

    def groups(self, name, direction):
        """{port: names of peers} of a pod's ruleset."""
        view = self.world.view('node-a')
        endpoint = view['endpoint:default/' + name]
        found = {}
        for group in view['ruleset:' + getattr(endpoint, direction)].groups:
            for ports in group.ports:
                self.assertEqual((6, ports.last),
                                 (ports.protocol, ports.first))
                found[ports.first] = sorted(
                    member.uid for peer in group.peers or ()
                    for member in view['selector:' + peer].members)
        return found

    def test_egress_is_of_each_peer(self):
        self.apply(podSelector={'matchLabels': {'app': 'client'}},
                   egress=[{'to': [{'podSelector': {}}],
                            'ports': [{'port': 'http'}]}])
        self.assertEqual({80: ['default/web'], 8080: ['default/other']},
                         self.groups('client', 'egress'))
        third = self.pod('third', 4, 8080)
        self.assertEqual({80: ['default/web'], 8080: [
            'default/other', 'default/third']},
            self.groups('client', 'egress'))
        self.world.delete_pod(third['metadata']['uid'])
        self.world.delete_pod(self.web['metadata']['uid'])
        self.assertEqual({8080: ['default/other']},
                         self.groups('client', 'egress'))
        self.pod('late', 5, 9090)
        self.assertEqual({8080: ['default/other'], 9090: ['default/late']},
                         self.groups('client', 'egress'))

    def test_egress_to_a_block_is_to_the_pods_in_it(self):
        self.apply(podSelector={'matchLabels': {'app': 'client'}},
                   egress=[{'to': [{'ipBlock': {'cidr': '10.0.0.3/32'}}],
                            'ports': [{'port': 'http'}]}])
        self.assertEqual({8080: ['default/other'], 80: []},
                         self.groups('client', 'egress'))

    def test_egress_to_any_peer(self):
        self.apply(podSelector={'matchLabels': {'app': 'client'}},
                   egress=[{'ports': [{'port': 'http'}]}])
        self.assertEqual({80: ['default/web'], 8080: ['default/other']},
                         self.groups('client', 'egress'))

    def test_ingress_is_of_the_subject(self):
        self.apply(podSelector={}, ingress=[{'ports': [{'port': 'http'}]}])
        self.assertEqual({80: []}, self.groups('web', 'ingress'))
        self.assertEqual({8080: []}, self.groups('other', 'ingress'))
        self.assertEqual({}, self.groups('client', 'ingress'))
        self.pod('web', 2, 81)
        self.assertEqual({81: []}, self.groups('web', 'ingress'))

    def test_the_protocol_has_to_match(self):
        self.apply(podSelector={}, ingress=[{'ports': [
            {'port': 'http', 'protocol': 'UDP'}]}])
        self.assertEqual({}, self.groups('web', 'ingress'))
