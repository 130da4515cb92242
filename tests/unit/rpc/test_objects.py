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

import dataclasses
import ipaddress
import json

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium import exceptions
from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects
from tests import base

Entity = entities.Entity

text = st.text(max_size=20)
address = st.ip_addresses().map(str)
network = st.ip_addresses().flatmap(lambda found: st.integers(
    0, found.max_prefixlen).map(lambda length: str(ipaddress.ip_network(
        (found, length), strict=False))))
blocks = st.builds(model.Block, cidr=network,
                   excepts=st.lists(network, max_size=3).map(tuple),
                   outside=st.booleans())
members = st.lists(st.builds(
    model.Member, uid=text,
    addresses=st.lists(address, max_size=3).map(tuple),
    entity=st.sampled_from((Entity.POD, Entity.POD, Entity.REMOTE_NODE,
                            Entity.WORLD))), max_size=4).map(tuple)
selectors = st.builds(
    model.Selector, id=text, definition=text, members=members,
    block=st.none() | blocks, parts=st.integers(0, 3))
parts = st.builds(model.Members, selector=text,
                  number=st.integers(0, 300), members=members)
ports = st.tuples(
    st.integers(0, 255), st.integers(0, 65535), st.integers(0, 65535)).map(
        lambda t: model.PortRange(t[0], min(t[1:]), max(t[1:])))
groups = st.builds(
    model.RuleGroup, tier=st.sampled_from(model.Tier),
    priority=st.integers(0, 1000), verdict=st.sampled_from(model.Verdict),
    peers=st.none() | st.frozensets(text, max_size=4),
    ports=st.none() | st.frozensets(ports, max_size=4),
    l7set=st.integers(0, 9))
rulesets = st.builds(
    model.RuleSet, id=text, direction=st.sampled_from(model.Direction),
    groups=st.lists(groups, max_size=4).map(tuple),
    names=st.lists(st.lists(text, max_size=2).map(tuple),
                   max_size=4).map(tuple))
endpoints = st.builds(
    model.Endpoint, uid=text, namespace=text, name=text, host=text,
    vif_id=text, mac=text, network_id=text,
    addresses=st.lists(address, max_size=3).map(tuple), ingress=text,
    egress=text, fastpath=st.booleans())
services = st.builds(
    lb_model.Service, namespace=text, name=text, created=text,
    addresses=st.lists(address, max_size=2).map(tuple),
    external=st.lists(address, max_size=2).map(tuple),
    ports=st.lists(st.builds(
        lb_model.Port, name=text, protocol=st.integers(0, 255),
        port=st.integers(0, 65535), node_port=st.integers(0, 65535),
        backends=st.lists(st.builds(
            lb_model.Backend, address=address, port=st.integers(0, 65535),
            node=text, draining=st.booleans(),
            zones=st.lists(text, max_size=2).map(tuple),
            nodes=st.lists(text, max_size=2).map(tuple), mac=text,
            network_id=text), max_size=2).map(tuple)),
        max_size=2).map(tuple),
    affinity=st.integers(0, 86400), internal_local=st.booleans(),
    external_local=st.booleans(),
    source_ranges=st.none() | st.lists(network, max_size=2).map(tuple),
    health_port=st.integers(0, 65535))
nodes = st.builds(lb_model.Node, name=text, zone=text,
                  addresses=st.lists(address, max_size=2).map(tuple))
anything = selectors | parts | rulesets | endpoints | services | nodes

BLOCK = model.Selector('s2', '{"cidr":"10.0.0.0/8"}', (
    model.Member('n1', ('192.0.2.1',), Entity.REMOTE_NODE),),
    model.Block('10.0.0.0/8', ('10.1.0.0/16', '10.9.0.1/32')))
SELECTOR = model.Selector('s1', '{"pods":{}}', (
    model.Member('u1', ('10.0.0.1', 'fd00::1')),))
RULESET = model.RuleSet('r1', model.Direction.INGRESS, (
    model.RuleGroup(model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
                    frozenset({'s1', 's0'}),
                    frozenset({model.PortRange(6, 80, 80)})),),
    (('NetworkPolicy/default/web',),))
ENDPOINT = model.Endpoint(
    'u1', 'default', 'web', 'node-a', 'v1', 'fa:16:3e:00:00:01', 'n1',
    ('10.0.0.1',), 'r1', model.ALLOW_ALL, True)


def shuffled(value, seed):
    """The same JSON value with every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        seed.shuffle(keys)
        return {key: shuffled(value[key], seed) for key in keys}
    if isinstance(value, list):
        return [shuffled(inner, seed) for inner in value]
    return value


def padded(value):
    """The same JSON value with a field nobody knows in every mapping."""
    if isinstance(value, dict):
        return {'brand new': [1], **{
            key: padded(inner) for key, inner in value.items()}}
    if isinstance(value, list):
        return [padded(inner) for inner in value]
    return value


class RoundTripTestCase(base.TestCase):

    @hypothesis.given(anything)
    def test_comes_back_through_json(self, obj):
        wire = json.loads(json.dumps(objects.dump(obj)))
        self.assertEqual(obj, objects.load(wire))

    @hypothesis.given(anything)
    def test_unknown_fields_are_ignored(self, obj):
        self.assertEqual(obj, objects.load(padded(objects.dump(obj))))

    @hypothesis.given(anything)
    def test_newer_minor_version_is_read(self, obj):
        wire = objects.dump(obj)
        wire['version'] = wire['version'].replace('.0', '.7')
        self.assertEqual(obj, objects.load(wire))

    def test_a_service_of_an_older_controller(self):
        wire = objects.dump(lb_model.Service(
            'n1', 'a', '', ('172.30.0.1',), ('198.51.100.1',)))
        self.assertIsNone(objects.load(wire).source_ranges)
        for field in ('external_local', 'source_ranges', 'health_port'):
            del wire[field]
        found = objects.load(wire)
        # It has not said that clients outside may ask.
        self.assertEqual(((), True, 0), (
            found.source_ranges, found.external_local, found.health_port))

    def test_wire_form(self):
        self.assertEqual({
            'kind': 'ruleset', 'version': '1.0', 'id': 'r1',
            'direction': 'ingress', 'groups': [{
                'tier': 'network_policy', 'priority': 0, 'verdict': 'allow',
                'peers': ['s0', 's1'],
                'ports': [{'protocol': 6, 'first': 80, 'last': 80}],
                'l7set': 0}],
            'names': [['NetworkPolicy/default/web']],
        }, objects.dump(RULESET))
        self.assertEqual({
            'kind': 'selector', 'version': '1.0', 'id': 's1',
            'definition': '{"pods":{}}', 'members': [
                {'uid': 'u1', 'addresses': ['10.0.0.1', 'fd00::1']}],
        }, objects.dump(SELECTOR))
        self.assertEqual({
            'kind': 'selector', 'version': '2.0', 'id': 's2',
            'definition': '{"cidr":"10.0.0.0/8"}', 'members': [
                {'uid': 'n1', 'addresses': ['192.0.2.1'],
                 'entity': 'remote-node'}],
            'block': {'cidr': '10.0.0.0/8',
                      'except': ['10.1.0.0/16', '10.9.0.1/32'],
                      'outside': False},
        }, objects.dump(BLOCK))

    def test_older_readers_refuse_what_they_would_overlook(self):
        nodes = dataclasses.replace(BLOCK, block=None)
        block = dataclasses.replace(BLOCK, members=())
        for obj in (BLOCK, nodes, block):
            self.assertEqual('2.0', objects.dump(obj)['version'])
        for obj in (SELECTOR, RULESET, ENDPOINT):
            self.assertEqual('1.0', objects.dump(obj)['version'])

    def test_only_objects_are_dumped(self):
        self.assertRaises(TypeError, objects.dump, 'text')


class KeyTestCase(base.TestCase):

    def test_key(self):
        for obj, key in ((SELECTOR, 'selector:s1'), (RULESET, 'ruleset:r1'),
                         (ENDPOINT, 'endpoint:u1')):
            self.assertEqual(key, objects.key(obj))


class DigestTestCase(base.TestCase):

    @hypothesis.given(anything, st.randoms())
    def test_does_not_depend_on_order(self, obj, seed):
        self.assertEqual(objects.digest(obj), objects.digest(
            shuffled(objects.dump(obj), seed)))

    @hypothesis.given(anything, anything)
    def test_differs_where_content_differs(self, one, other):
        self.assertEqual(
            one == other and type(one) is type(other),
            objects.digest(one) == objects.digest(other))

    def test_is_fixed(self):
        # What agents of an earlier release have on disk stays comparable.
        self.assertEqual('81da04c4850dca10f5daef2480adfd43',
                         objects.digest(SELECTOR))
        self.assertEqual('dc66fb128836275e240a94cacd6cffe1',
                         objects.digest(RULESET))
        self.assertEqual('5680502a0f6f49b9e0d5a6576c25cce9',
                         objects.digest(ENDPOINT))

    def test_counts_unknown_fields(self):
        wire = objects.dump(SELECTOR)
        self.assertNotEqual(objects.digest(wire),
                            objects.digest(padded(wire)))


class RefusedTestCase(base.TestCase):

    def assertRefused(self, wire, why):
        error = self.assertRaises(exceptions.InvalidWireObject,
                                  objects.load, wire)
        self.assertIn(why, str(error))

    def test_unknown_major_version(self):
        for version in ('3.0', '0.9', '', None, 1, '11.0'):
            self.assertRefused(dict(objects.dump(SELECTOR), version=version),
                               'upgrade')

    def test_unknown_kind(self):
        for kind in ('policy', None, 3, ['selector']):
            self.assertRefused(dict(objects.dump(SELECTOR), kind=kind),
                               'not known')
        self.assertRefused('text', 'not known')

    def test_every_field_is_needed(self):
        for obj in (SELECTOR, RULESET, ENDPOINT):
            wire = objects.dump(obj)
            for field in wire.keys() - {'kind', 'version'}:
                self.assertRefused({name: value for name, value
                                    in wire.items() if name != field}, field)

    def test_a_group_without_peers_or_ports_is_not_any(self):
        for field in ('peers', 'ports'):
            wire = objects.dump(RULESET)
            del wire['groups'][0][field]
            self.assertRefused(wire, field)

    def test_values(self):
        for field, value in (('members', {}), ('members', 'x'),
                             ('members', [{'uid': 'u', 'addresses': 'x'}]),
                             ('id', 1), ('definition', None)):
            self.assertRefused(dict(objects.dump(SELECTOR), **{field: value}),
                               'Error')
        for field, value in (('block', None), ('block', '10.0.0.0/8'),
                             ('block', {'cidr': '10.0.0.0/8'}),
                             ('block', {'except': [], 'outside': True}),
                             ('block', {'cidr': '::/0', 'except': []}),
                             ('block', {'cidr': '::/0', 'except': [],
                                        'outside': 1}),
                             ('members', [{'uid': 'u', 'addresses': [],
                                           'entity': 'host'}]),
                             ('parts', -1), ('parts', True), ('parts', '2'),
                             ('members', [{'uid': 'u', 'addresses': [],
                                           'entity': 2}])):
            self.assertRefused(dict(objects.dump(BLOCK), **{field: value}),
                               'Error')
        for network in ('10.0.0.1/8', '10.0.0.0', '10.0.0.0/33', 'FD00::/8',
                        'fe80::%1/128', '10.0.0.0/08', '', 'any', 8):
            for field in ({'cidr': network, 'except': []},
                          {'cidr': '10.0.0.0/8', 'except': [network]}):
                field['outside'] = False
                self.assertRefused(dict(objects.dump(BLOCK), block=field),
                                   'Error')
        for field, value in (('tier', 'odd'), ('verdict', 'maybe'),
                             ('priority', '1'), ('priority', True),
                             ('ports', [{'protocol': 6, 'first': 2,
                                         'last': 1}]),
                             ('ports', [{'protocol': 256, 'first': 0,
                                         'last': 1}]),
                             ('peers', 's1'), ('l7set', None)):
            wire = objects.dump(RULESET)
            wire['groups'][0][field] = value
            self.assertRefused(wire, 'Error')
        self.assertRefused(dict(objects.dump(ENDPOINT), fastpath=1), 'Error')
        self.assertRefused(dict(objects.dump(RULESET), direction='up'),
                           'Error')
