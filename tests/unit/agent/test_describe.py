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

from kuryr_cilium.agent import describe
from kuryr_cilium.agent import store
from kuryr_cilium.lb import model as lb_model
from kuryr_cilium.policy import model
from tests import base
from tests.unit.agent import samples

RULESET = samples.ruleset('r', 's')
VIEW = model.View(
    1, True, {
        samples.UID: samples.endpoint(ingress='r', egress=model.ALLOW_ALL)},
    {'r': RULESET}, {'s': samples.selector('s', '10.0.0.1')})


class TestEndpoints(base.TestCase):

    def one(self, record=None, view=VIEW, denied=None):
        return describe.endpoints([record or samples.record()], view,
                                  denied or {}, {samples.UID: 2})[0]

    def test_an_endpoint(self):
        self.assertEqual({
            'namespace': 'default', 'name': 'web', 'uid': samples.UID,
            'state': 'ready', 'container_id': 'c1', 'interface': 'eth0',
            'netns': '/run/netns/x', 'port_id': samples.VIF,
            'mac': 'fa:16:3e:00:03:07',
            'addresses': ['10.99.3.7', 'fd99::3:7'], 'fastpath': False,
            'connections': 2,
            'ingress': {'ruleset': 'r', 'verdict': 'by policy', 'why': '',
                        'policies': ['NetworkPolicy/default/landing']},
            'egress': {'ruleset': 'allow-all', 'verdict': 'allow all',
                       'why': '', 'policies': []},
        }, {k: v for k, v in self.one().items() if k != 'network_id'})

    def test_what_is_not_in_the_view_drops(self):
        other = '9c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c02'
        for endpoint in (self.one(view=None),
                         self.one(samples.record(uid='other')),
                         self.one(samples.record(vif_id=other))):
            self.assertEqual('drop', endpoint['ingress']['verdict'])
            self.assertIn('view', endpoint['egress']['why'])

    def test_a_limit_denies(self):
        endpoint = self.one(denied={samples.UID: 'too many rules'})
        self.assertEqual(('deny all', 'too many rules'),
                         (endpoint['ingress']['verdict'],
                          endpoint['ingress']['why']))

    def test_sorted_by_pod(self):
        records = [samples.record('b', name='b'),
                   samples.record('a', name='a', state=store.PLUGGING)]
        self.assertEqual(['a', 'b'], [
            e['name'] for e in describe.endpoints(records, None, {}, {})])


class TestPolicies(base.TestCase):

    def test_a_ruleset(self):
        self.assertEqual([{
            'ruleset': 'r', 'direction': 'ingress',
            'policies': ['NetworkPolicy/default/landing'],
            'endpoints': ['default/web'],
            'rules': [{'tier': 'network_policy', 'verdict': 'allow',
                       'peers': ['{"pods":{"org":"empire"}} (1 member)'],
                       'ports': ['TCP/80']}]}],
            describe.policies(VIEW))
        self.assertEqual([], describe.policies(None))

    def test_anything(self):
        ruleset = model.RuleSet('x', model.Direction.EGRESS, (
            model.RuleGroup(model.Tier.ADMIN, 0, model.Verdict.DENY),
            model.RuleGroup(
                model.Tier.ADMIN, 0, model.Verdict.PASS, frozenset(),
                frozenset([model.PortRange(17, 5, 9),
                           model.PortRange(132), model.PortRange(0)]))))
        rules = describe.policies(model.View(
            1, True, {}, {'x': ruleset}, {}))[0]['rules']
        self.assertEqual([(['anything'], ['any']),
                          ([], ['any', 'UDP/5-9', 'SCTP'])],
                         [(r['peers'], r['ports']) for r in rules])


class TestServices(base.TestCase):

    SERVICE = lb_model.Service(
        'shop', 'web', '2026-01-01T00:00:00Z', ('10.96.0.7', 'fd00:96::7'),
        ('192.0.2.7',), (lb_model.Port('http', 6, 80, 30080, (
            lb_model.Backend('10.99.3.7', 8080, 'node-a'),
            lb_model.Backend('10.99.3.8', 8080, draining=True))),), 60,
        external_local=True, source_ranges=('203.0.113.0/24',),
        health_port=30999)

    def test_a_service(self):
        self.assertEqual({'enabled': True, 'trouble': None, 'services': [{
            'namespace': 'shop', 'name': 'web',
            'addresses': ['10.96.0.7', 'fd00:96::7'],
            'external': ['192.0.2.7'],
            'ports': [{
                'name': 'http', 'protocol': 'TCP', 'port': 80,
                'node_port': 30080, 'backends': [
                    {'address': '10.99.3.7', 'port': 8080, 'node': 'node-a',
                     'state': 'ready'},
                    {'address': '10.99.3.8', 'port': 8080, 'node': '',
                     'state': 'draining'}]}],
            'affinity_seconds': 60, 'internal_traffic_policy': 'Cluster',
            'external_traffic_policy': 'Local',
            'source_ranges': ['203.0.113.0/24'],
            'health_check_node_port': 30999,
            'state': 'in force'}]},
            describe.services({'shop/web': self.SERVICE}, None, {}, {}))

    def test_refused(self):
        for refused, conflicts, state in (
                ({'shop/web': 'no room'}, {}, 'refused: no room'),
                ({}, {'shop/web': 'taken'}, 'refused: taken'),
                ({'shop/web': 'no room'}, {'shop/web': 'taken'},
                 'refused: no room; taken'),
                ({'shop/db': 'no room'}, {}, 'in force')):
            service, = describe.services(
                {'shop/web': self.SERVICE}, None, refused, conflicts
            )['services']
            self.assertEqual(state, service['state'])

    def test_a_health_check_port_that_is_taken(self):
        why = {'shop/web': 'health check port 30999 of IPv4: in use'}
        for refused, state in (({}, 'in force, but health check port 30999 '
                                'of IPv4: in use'),
                               ({'shop/web': 'no room'},
                                'refused: no room')):
            service, = describe.services(
                {'shop/web': self.SERVICE}, None, refused, {}, why
            )['services']
            self.assertEqual(state, service['state'])

    def test_not_current_and_off(self):
        self.assertEqual(
            {'enabled': True, 'trouble': 'no answer', 'services': []},
            describe.services({}, 'no answer', {}, {}))
        self.assertFalse(describe.services(None, None, {}, {})['enabled'])
