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

"""The trace of a packet: what is loaded, compiled and expected, compared."""

import json
from unittest import mock

import fixtures

from kuryr_cilium.agent import describe
from kuryr_cilium.cli import cluster
from kuryr_cilium.cli import compiled
from kuryr_cilium.cli import expected
from kuryr_cilium.cli import trace
from kuryr_cilium.lb import model as lb
from kuryr_cilium.linux import netlink
from kuryr_cilium.policy import model
from tests import base
from tests.unit.cli import servers
from tests.unit.policy import builders

RULE = 'NetworkPolicy/default/db ingress[0]'


def objects(policies=None, pods=()):
    """Two nodes; only web may reach db, nobody reaches far."""
    if policies is None:
        policies = [
            builders.policy('db', {
                'podSelector': {'matchLabels': {'app': 'db'}},
                'ingress': [{
                    'from': [{'podSelector': {
                        'matchLabels': {'app': 'web'}}}],
                    'ports': [{'port': 5432}]}]}),
            builders.policy('closed', {
                'podSelector': {'matchLabels': {'app': 'far'}}})]
    return cluster.Cluster(
        pods=(*(builders.pod(name, labels={'app': name}, number=number,
                             node=node)
                for name, number, node in (('web', 1, 'node-a'),
                                           ('db', 2, 'node-a'),
                                           ('far', 3, 'node-b'))), *pods),
        namespaces=(builders.namespace('default'),),
        nodes=(builders.node('node-a', '192.0.2.11', '2001:db8::a'),
               builders.node('node-b', '192.0.2.12', '2001:db8::b')),
        policies={'NetworkPolicy': tuple(policies)})


class TraceCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MockPatchObject(trace, 'RECHECK', 0))
        self.useFixture(fixtures.MockPatchObject(
            netlink, 'addresses', lambda: {'127.0.0.1', '192.0.2.21'}))
        self.kubernetes = self.useFixture(servers.Kubernetes(objects()))
        self.agent = self.useFixture(servers.Agent('node-a', objects()))

    def run_cli(self, *args):
        return servers.run(self.agent, self.kubernetes, *args)

    def trace(self, source, destination, *args, code=0):
        got, text = self.run_cli('policy', 'trace', '--from', source, '--to',
                                 destination, '-f', 'json', *args)
        self.assertEqual(code, got, text)
        return json.loads(text)

    def refused(self, *args):
        code, text = self.run_cli('policy', 'trace', *args)
        self.assertEqual(1, code, text)
        return text


class TestVerdicts(TraceCase):

    def test_allowed_by_a_rule(self):
        found = self.trace('default/web', 'default/db', '--port', '5432')
        self.assertEqual(('allow', [], ''), (
            found['verdict'], found['faults'], found['not_asked']))
        self.assertEqual({
            'kind': 'pod', 'name': 'default/web', 'node': 'node-a',
            'uid': 'default/web', 'addresses': ['10.0.0.1', 'fd00::2']},
            found['from'])
        self.assertEqual(['10.0.0.2', 'fd00::3'], [
            check['peer'] for check in found['egress']['checks']])
        for check in found['ingress']['checks']:
            for name in ('loaded', 'compiled', 'oracle'):
                self.assertEqual(
                    ('allow', [RULE], 'network_policy',
                     'allow by %s, tier network_policy' % RULE),
                    tuple(check[name][key] for key in (
                        'verdict', 'rules', 'tier', 'text')))
        self.assertEqual({
            'uid': 'default/db', 'direction': 'ingress', 'peer': '10.0.0.1',
            'protocol': '6', 'port': '5432'}, self.agent.asked[2])

    def test_for_people(self):
        code, text = self.run_cli(
            'policy', 'trace', '--from', 'web', '--to', 'db', '--port',
            '5432')
        self.assertEqual(0, code)
        for part in ('default/web (10.0.0.1, fd00::2) on node node-a',
                     'with 10.0.0.2: allow: no policy isolates it',
                     'with 10.0.0.1: allow by ' + RULE,
                     'ruleset 7, class 21 (pod), group 0',
                     'oracle:   the same'):
            self.assertIn(part, text)

    def test_no_rule_allows(self):
        found = self.trace('default/web', 'default/db', '--port', '80')
        self.assertEqual('deny', found['verdict'])
        check = found['ingress']['checks'][0]
        self.assertEqual('drop: no rule allows it; isolated by '
                         'NetworkPolicy/default/db', check['loaded']['text'])
        self.assertEqual('drop', check['oracle']['verdict'])

    def test_from_outside(self):
        found = self.trace('198.51.100.7', '10.0.0.2', '--port', '5432')
        self.assertEqual('nowhere', found['egress']['judged'])
        self.assertIn('no pod', found['egress']['why'])
        self.assertEqual(('pod', 'default/db', ['10.0.0.2']), tuple(
            found['to'][key] for key in ('kind', 'name', 'addresses')))
        self.assertEqual('deny', found['verdict'])
        self.assertEqual(1, len(self.agent.asked))

    def test_own_and_remote_node(self):
        # NOTE: this host has an address that the API server doesn't know.
        for source in ('node/node-a', '192.0.2.11', '192.0.2.21'):
            found = self.trace(source, 'default/db', '--port', '1')
            self.assertIn('probes', found['ingress']['why'])
            self.assertEqual('allow', found['verdict'])
        self.assertEqual([], self.agent.asked)
        found = self.trace('default/db', '192.0.2.21', '--port', '1')
        check, = found['egress']['checks']
        self.assertEqual(('allow', None), (check['compiled']['verdict'],
                                           check['oracle']))
        found = self.trace('node/node-b', 'default/db', '--port', '1')
        self.assertEqual('deny', found['verdict'])

    def test_a_pod_to_itself(self):
        found = self.trace('default/db', 'default/db', '--port', '1')
        self.assertEqual('allow', found['verdict'])
        self.assertIn('itself', found['ingress']['why'])

    def test_icmp(self):
        found = self.trace('web', 'db', '--protocol', 'icmpv6')
        self.assertEqual(128, found['icmp_type'])
        self.assertEqual(
            [('fd00::3', '58', '32768')],
            [(query['peer'], query['protocol'], query['port'])
             for query in self.agent.asked if query['direction'] ==
             'egress'])
        self.assertEqual('deny', found['verdict'])

    def test_families_may_differ(self):
        self.kubernetes.cluster = objects([builders.policy('v4', {
            'podSelector': {}, 'ingress': [{'from': [
                {'ipBlock': {'cidr': '10.0.0.0/8',
                             'except': ['10.0.0.3/32']}}]}]})])
        self.agent.load(self.kubernetes.cluster)
        self.assertEqual('mixed', self.trace(
            'web', 'db', '--port', '1')['verdict'])
        self.assertEqual('allow', self.trace(
            '10.0.0.1', 'db', '--port', '1')['verdict'])
        self.assertEqual('deny', self.trace(
            '10.0.0.3', 'db', '--port', '1')['verdict'])


class TestServices(TraceCase):

    VIP = {4: '172.30.0.1', 6: 'fd30::1'}

    def setUp(self):
        super().setUp()
        self.agent.services = describe.services({'default/db': lb.Service(
            'default', 'db', '', tuple(self.VIP.values()), ports=(
                lb.Port('sql', 6, 80), lb.Port('dns', 17, 53),
                lb.Port('dns-too', 17, 5353)))}, None, {}, {})
        self.serve('10.0.0.2', '10.0.0.1')
        self.serve('fd00::3', version=6)

    def serve(self, *addresses, version=4, port=5432):
        self.agent.backends[self.VIP[version], 80, 6] = {
            'service': 'default/db', 'backends': [
                {'address': address, 'port': port} for address in addresses]}

    def test_each_backend_is_judged(self):
        found = self.trace('web', 'service/default/db', '--port', '80')
        self.assertEqual({
            'kind': 'service', 'name': 'default/db', 'node': '', 'uid': '',
            'addresses': list(self.VIP.values())}, found['to'])
        self.assertEqual(
            [('10.0.0.1', 5432, 'default/web', 'allow'),
             ('10.0.0.2', 5432, 'default/db', 'allow'),
             ('fd00::3', 5432, 'default/db', 'allow')],
            [(backend['address'], backend['port'], backend['to']['name'],
              backend['verdict']) for backend in found['backends']])
        self.assertEqual((80, 'allow', []), tuple(
            found[name] for name in ('port', 'verdict', 'faults')))
        check, = found['backends'][1]['ingress']['checks']
        self.assertEqual([RULE], check['loaded']['rules'])
        self.assertNotIn('egress', found)

    def test_backends_may_differ(self):
        self.serve('10.0.0.2', '198.51.100.9', port=80)
        found = self.trace('web', 'service/default/db')
        self.assertEqual(('mixed', 80), (found['verdict'], found['port']))
        self.assertEqual(['deny', 'allow', 'allow'], [
            backend['verdict'] for backend in found['backends']])

    def test_none_is_ready(self):
        for version in (4, 6):
            self.serve(version=version)
        self.assertEqual('refused', self.trace(
            'web', 'service/default/db')['verdict'])
        code, text = self.run_cli('policy', 'trace', '--from', 'web', '--to',
                                  'service/default/db')
        self.assertEqual(0, code)
        self.assertIn('none is ready', text)

    def test_by_address(self):
        for words in (('172.30.0.1', '--port', '80'), ('172.30.0.1:80',)):
            found = self.trace('web', *words)
            self.assertEqual(('service', 'default/db', ['172.30.0.1']), tuple(
                found['to'][key] for key in ('kind', 'name', 'addresses')))
            self.assertEqual(2, len(found['backends']))
        found = self.trace('web', '[fd30::1]:80')
        self.assertEqual(['fd00::3'], [
            backend['address'] for backend in found['backends']])

    def test_a_node_port(self):
        self.agent.backends['192.0.2.12', 30080, 6] = {
            'service': 'default/db', 'backends': [
                {'address': '10.0.0.2', 'port': 5432}]}
        found = self.trace('web', 'node/node-b', '--port', '30080')
        self.assertEqual(('service', ['192.0.2.12'], 'allow'), (
            found['to']['kind'], found['to']['addresses'], found['verdict']))

    def test_what_is_no_service_stays_as_it_is(self):
        for words in (('db', '--port', '5432'), ('10.0.0.2', '--port', '80'),
                      ('172.30.0.1', '--port', '81'), ('10.0.0.2:5432',),
                      ('172.30.0.1', '--protocol', 'icmp')):
            found = self.trace('web', *words)
            self.assertIn('ingress', found)
            self.assertNotIn('backends', found)
        # Of what comes from outside another node decides.
        self.assertNotIn('backends', self.trace('198.51.100.7',
                                                '172.30.0.1:80'))

    def test_for_people(self):
        code, text = self.run_cli('policy', 'trace', '--from', 'web', '--to',
                                  'service/default/db')
        self.assertEqual(0, code)
        for part in ('service/default/db (172.30.0.1, fd30::1)',
                     '10.0.0.2:5432 default/db: allow',
                     '[fd00::3]:5432 default/db: allow',
                     'ingress with 10.0.0.1: allow by ' + RULE):
            self.assertIn(part, text)

    def test_refusals(self):
        for words, part in (
                (('service/default/nope',), 'Service default/nope'),
                (('service/default/db', '--protocol', 'udp'), '53, 5353'),
                (('service/default/db', '--protocol', 'sctp'),
                 'no port of sctp'),
                (('service/default/db', '--protocol', 'icmp'), 'No icmp'),
                (('service/default/db', '--port', '81'), 'No tcp/81'),
                (('172.30.0.1:80', '--port', '81'), 'leave one out')):
            self.assertIn(part, self.refused('--from', 'web', '--to', *words))
        self.agent.services = describe.services(None, None, {}, {})
        self.assertIn('switched off', self.refused(
            '--from', 'web', '--to', 'service/default/db'))


class TestElsewhere(TraceCase):

    def test_as_compiled(self):
        found = self.trace('web', 'far', '--port', '80')
        ingress = found['ingress']
        self.assertEqual(('elsewhere', 'node-b'),
                         (ingress['judged'], ingress['node']))
        self.assertEqual(
            'kuryr-cilium policy trace --from web --to far --protocol tcp '
            '--port 80', ingress['run'])
        self.assertIsNone(ingress['checks'][0]['loaded'])
        self.assertEqual('drop', ingress['checks'][0]['compiled']['verdict'])
        self.assertEqual('deny', found['verdict'])
        code, text = self.run_cli('policy', 'trace', '--from', 'web', '--to',
                                  'far', '--port', '80')
        self.assertIn('on node node-b, ask there:', text)

    def test_without_rights(self):
        self.kubernetes.refused = {'networkpolicies'}
        text = self.refused('--from', 'web', '--to', 'far', '--port', '80')
        self.assertIn('default/far', text)
        self.assertIn('networkpolicies is forbidden', text)
        found = self.trace('web', 'db', '--port', '80')
        self.assertEqual(('deny', 0), (found['verdict'],
                                       len(found['faults'])))
        self.assertIn('networkpolicies is forbidden', found['not_asked'])
        for check in found['ingress']['checks']:
            self.assertEqual((None, None), (check['compiled'],
                                            check['oracle']))
        found = self.trace('web', '10.0.0.3', '--port', '80')
        self.assertEqual(('unknown', 'elsewhere'),
                         (found['verdict'], found['ingress']['judged']))
        self.assertEqual('allow', found['egress']['checks'][0]['loaded'][
            'verdict'])


class TestFaults(TraceCase):

    def test_a_damaged_entry(self):
        self.agent.damage = lambda answer: answer.update(
            verdict='allow', reason='', rule=['NetworkPolicy/x/y ingress[0]'])
        found = self.trace('web', '10.0.0.2', '--port', '80', code=2)
        # NOTE: what is loaded is what happens.
        self.assertEqual('allow', found['verdict'])
        egress, ingress = found['faults']
        self.assertIn('ingress of default/db from 10.0.0.1: the ruleset is '
                      'the right one, but its entries in the maps say "allow '
                      'by NetworkPolicy/x/y ingress[0]', ingress)
        self.assertIn('Restart kuryr-cilium-agent', ingress)
        self.assertEqual(4, len(self.agent.asked), 'not asked again')

    def test_a_node_that_is_behind(self):
        self.agent.load(objects([]))
        found = self.trace('web', 'db', '--port', '80', code=2)
        self.assertIn('not what the controller compiles',
                      found['faults'][0])
        code, text = self.run_cli('policy', 'trace', '--from', 'web', '--to',
                                  'db', '--port', '80')
        self.assertEqual(2, code)
        self.assertIn('kuryr-cilium status', text)

    def test_a_change_in_flight(self):
        self.agent.load(objects([]))

        def catch_up(answer):
            self.agent.load(objects())

        self.agent.damage = catch_up
        self.assertEqual([], self.trace('web', 'db', '--port', '80')[
            'faults'])

    def test_the_oracle_differs(self):
        with mock.patch.object(expected.Expected, 'judge', autospec=True,
                               return_value=compiled.Decision('allow')):
            found = self.trace('web', 'db', '--port', '80', code=2)
        self.assertIn('One of them errs', found['faults'][0])

    def test_a_missing_entry(self):
        self.agent.damage = lambda answer: answer.update(
            verdict='drop', reason='tables', rule=[], bit=None)
        self.kubernetes.refused = {'pods'}
        found = self.trace('198.51.100.7', 'db', '--port', '80', code=2)
        self.assertIn('an entry of the loaded ruleset is missing',
                      found['faults'][0])

    def test_what_was_announced_is_no_fault(self):
        for endpoint in self.agent.endpoints:
            endpoint['ingress']['why'] = 'too many rules'
        self.agent.damage = lambda answer: answer.update(
            verdict='deny', reason='policy-deny', rule=[], tier='',
            ruleset_id=model.DENY_ALL)
        found = self.trace('198.51.100.7', 'db', '--port', '5432')
        self.assertEqual('deny: everything, since too many rules',
                         found['ingress']['checks'][0]['loaded']['text'])

    def test_scheduled_here_and_not_plugged(self):
        self.agent.endpoints = [endpoint for endpoint in self.agent.endpoints
                                if endpoint['name'] == 'web']
        found = self.trace('web', 'db', '--port', '5432')
        self.assertEqual('no-endpoint', found['ingress']['checks'][0][
            'loaded']['reason'])
        self.assertEqual('deny', found['verdict'])


class TestRefusals(TraceCase):

    def test_ends(self):
        self.kubernetes.cluster = objects(pods=(
            builders.pod('done', number=7, phase='Succeeded'),
            builders.pod('proxy', host_network=True, node='node-b'),
            builders.pod('new')))
        for end, part in (
                ('dv', 'near it: default/db'),
                ('default/done', 'it has ended'),
                ('default/proxy', 'trace node/node-b'),
                ('default/new', 'no address yet'),
                ('node/node-c', 'near it: node/node-b'),
                ('10.0.0.0/8', 'none of that name')):
            text = self.refused('--from', 'web', '--to', end, '--port', '1')
            self.assertIn(part, text)

    def test_packets(self):
        for args, part in (
                ((), 'give --port'),
                (('--protocol', 'icmp', '--port', '1'), 'has no ports'),
                (('--icmp-type', '8', '--port', '1'), 'needs --protocol')):
            self.assertIn(part, self.refused('--from', 'web', '--to', 'db',
                                             *args))
        self.assertIn('no addresses of one family', self.refused(
            '--from', '10.0.0.1', '--to', 'fd00::3', '--port', '1'))
        self.assertRaises(
            SystemExit, self.run_cli, 'policy', 'trace', '--from', 'web',
            '--to', 'db', '--port', '65536')

    def test_no_agent(self):
        self.agent.socket += 'x'
        self.assertIn('Is kuryr-cilium-agent running', self.refused(
            '--from', 'web', '--to', 'db', '--port', '1'))
