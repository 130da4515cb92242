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

"""The commands about what is plugged and loaded, without an API server."""

import json

from kuryr_cilium.monitor import events
from tests import base
from tests.unit.cli import servers
from tests.unit.cli import test_trace
from tests.unit.monitor import test_events


class TestEndpoints(base.TestCase):

    def setUp(self):
        super().setUp()
        self.agent = self.useFixture(servers.Agent(
            'node-a', test_trace.objects()))

    def run_cli(self, *args, code=0):
        got, text = servers.run(self.agent, None, *args)
        self.assertEqual(code, got, text)
        return text

    def test_list(self):
        listed = json.loads(self.run_cli('endpoint', 'list', '-f', 'json'))
        self.assertEqual(
            [('web', ['10.0.0.1', 'fd00::2'], 3),
             ('db', ['10.0.0.2', 'fd00::3'], 3)],
            [(e['name'], e['addresses'], e['connections']) for e in listed])
        self.assertEqual([], json.loads(self.run_cli(
            'endpoint', 'list', '--namespace', 'other', '-f', 'json')))

    def test_what_judges(self):
        db = self.agent.endpoints[1]
        db['ingress'].update(policies=['NetworkPolicy/default/db'])
        db['egress'].update(verdict='deny all', why='too many rules')
        for name, texts in (
                ('web', (['isolated, without rules'],) * 2),
                ('db', (['NetworkPolicy/default/db'],
                        ['deny all: too many rules']))):
            listed, = [e for e in json.loads(self.run_cli(
                'endpoint', 'list', '-f', 'json')) if e['name'] == name]
            self.assertEqual(texts, (listed['ingress'], listed['egress']))

    def test_show(self):
        names = events.Names()
        for uid in ('default/db', 'default/db', 'default/web'):
            self.agent.ring.add(lambda seq: events.name(
                seq, test_events.event(uid=uid), names))
        for pod in ('default/db', 'db', '10.0.0.2'):
            shown = json.loads(self.run_cli(
                'endpoint', 'show', pod, '-f', 'json'))
            self.assertEqual(
                {'groups': 1, 'port_prefixes': 2, 'peer_rows': 5},
                shown['ingress']['entries'])
            self.assertEqual({'ingress POLICY': 2}, shown['recent_drops'])
            self.assertEqual(3, shown['connections'])
        text = self.run_cli('endpoint', 'show', 'db')
        self.assertIn('entries: groups 1, port_prefixes 2', text)

    def test_unknown(self):
        text = self.run_cli('endpoint', 'show', 'default/dbb', code=1)
        self.assertIn('near it: default/db', text)
        self.assertIn('kuryr-cilium endpoint list', text)

    def test_rulesets(self):
        ruleset = self.agent.endpoints[1]['ingress']['ruleset']
        self.agent.described = [{
            'ruleset': ruleset, 'direction': 'ingress',
            'policies': ['NetworkPolicy/default/db'],
            'endpoints': ['default/db'], 'rules': []}]
        listed, = json.loads(self.run_cli('ruleset', 'list', '-f', 'json'))
        self.assertEqual((ruleset, 1), (listed['ruleset'],
                                        listed['entries']['groups']))
        self.assertIn('nothing is allowed', self.run_cli('ruleset', 'list'))
