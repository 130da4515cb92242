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

"""The policies of a cluster as a node has them."""

import json

from tests.unit.cli import servers
from tests.unit.cli import test_trace
from tests.unit.policy import builders

BROKEN = builders.policy('broken', {
    'podSelector': {'matchLabels': {'app': 'web'}},
    'ingress': [{'from': [{'fqdn': 'example.org'}]}]})


class PolicyCase(test_trace.TraceCase):

    def setUp(self):
        super().setUp()
        self.kubernetes.cluster = self.with_broken()
        self.agent.load(self.kubernetes.cluster)

    def with_broken(self):
        known = test_trace.objects()
        return test_trace.objects(
            [*known.policies['NetworkPolicy'], BROKEN])

    def list(self, *args):
        code, text = self.run_cli('policy', 'list', '-f', 'json', *args)
        self.assertEqual(0, code, text)
        return json.loads(text)

    def show(self, name):
        code, text = self.run_cli('policy', 'show', name, '-f', 'json')
        self.assertEqual(0, code, text)
        return json.loads(text)


class TestList(PolicyCase):

    def test_states(self):
        broken, closed, db = self.list()
        self.assertEqual({
            'kind': 'NetworkPolicy', 'namespace': 'default', 'name': 'db',
            'endpoints': 1, 'state': 'applied', 'why': ''}, db)
        self.assertEqual((0, 'selects none here'),
                         (closed['endpoints'], closed['state']))
        self.assertEqual('isolates', broken['state'])
        self.assertIn('because spec.ingress[0].from[0].fqdn',
                      broken['why'])
        self.assertEqual([], self.list('--namespace', 'other'))

    def test_not_yet(self):
        self.agent.load(test_trace.objects([]))
        broken, closed, db = self.list()
        self.assertEqual('waiting', db['state'])
        self.assertIn('default/db: judged by other rulesets', db['why'])

    def test_past_a_limit(self):
        for endpoint in self.agent.endpoints:
            endpoint['ingress']['why'] = 'too many rules'
        db = self.list()[2]
        self.assertEqual(
            ('denied', 'default/db denies everything: too many rules'),
            (db['state'], db['why']))

    def test_without_rights(self):
        code, text = servers.run(self.agent, None, 'policy', 'list')
        self.assertEqual(1, code)
        self.assertIn('--kubeconfig', text)
        self.assertIn('kuryr-cilium ruleset list', text)


class TestShow(PolicyCase):

    def test_a_policy(self):
        db = self.show('NetworkPolicy/default/db')
        ruleset = next(
            endpoint['ingress']['ruleset']
            for endpoint in self.agent.endpoints if endpoint['name'] == 'db')
        self.assertEqual({
            'kind': 'NetworkPolicy', 'namespace': 'default', 'name': 'db',
            'uid': 'policy/default/db', 'state': 'applied', 'why': '',
            'problems': [], 'ingress': ['default/db'], 'egress': [],
            'rulesets': [{'ruleset': ruleset, 'groups': 1,
                          'port_prefixes': 2, 'peer_rows': 5}]}, db)

    def test_what_can_not_be_expressed(self):
        broken = self.show('networkpolicy/default/broken')
        problem, = broken['problems']
        self.assertIn('spec.ingress[0].from[0].fqdn', problem)
        self.assertEqual(['default/web'], broken['ingress'])

    def test_unknown(self):
        code, text = self.run_cli('policy', 'show', 'NetworkPolicy/default/d')
        self.assertEqual(1, code)
        self.assertIn('near it: NetworkPolicy/default/db', text)

    def test_for_people(self):
        code, text = self.run_cli('policy', 'show',
                                  'NetworkPolicy/default/db')
        self.assertEqual(0, code)
        self.assertIn('groups 1, port_prefixes 2, peer_rows 5', text)
