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

"""The commands about services, without an API server."""

import json

from kuryr_cilium.agent import describe
from kuryr_cilium.lb import model
from kuryr_cilium.monitor import events
from tests import base
from tests.unit.cli import servers
from tests.unit.cli import test_trace
from tests.unit.monitor import test_events

WEB = model.Service(
    'shop', 'web', '2026-01-01T00:00:00Z', ('10.96.0.7', 'fd00:96::7'),
    ports=(model.Port('http', 6, 80, 30080, (
        model.Backend('10.99.3.7', 8080, 'node-a'),
        model.Backend('fd99::3:7', 8080, 'node-a', draining=True))),))
DNS = model.Service(
    'kube-system', 'kube-dns', '2026-01-01T00:00:00Z', ('10.96.0.10',),
    ports=(model.Port('', 17, 53),), internal_local=True, external_local=True,
    source_ranges=('203.0.113.0/24', 'fd77::/64'))


class ServicesCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.agent = self.useFixture(servers.Agent(
            'node-a', test_trace.objects()))
        self.answer()

    def answer(self, trouble=None, conflicts={}):
        self.agent.services = describe.services(
            {service.id: service for service in (WEB, DNS)}, trouble, {},
            conflicts)

    def run_cli(self, *args, code=0):
        got, text = servers.run(self.agent, None, *args)
        self.assertEqual(code, got, text)
        return text


class TestList(ServicesCase):

    def list(self, *args):
        return json.loads(self.run_cli('service', 'list', '-f', 'json',
                                       *args))

    def test_all(self):
        dns, web = self.list()
        self.assertEqual({
            'namespace': 'shop', 'name': 'web',
            'addresses': ['10.96.0.7', 'fd00:96::7'], 'external': [],
            'ports': ['TCP/80 http, node port 30080'], 'backends': 2,
            'policies': [], 'state': 'in force'}, web)
        self.assertEqual((['UDP/53'], 0), (dns['ports'], dns['backends']))
        self.assertEqual(['internal Local', 'external Local',
                          'from 203.0.113.0/24', 'from fd77::/64'],
                         dns['policies'])

    def test_of_a_namespace(self):
        web, = self.list('--namespace', 'shop')
        self.assertEqual('web', web['name'])
        self.assertEqual([], self.list('--namespace', 'other'))

    def test_refused(self):
        self.answer(conflicts={'shop/web': '10.96.0.7:80 is taken by the '
                                           'service shop/old'})
        self.assertEqual('refused: 10.96.0.7:80 is taken by the service '
                         'shop/old', self.list()[1]['state'])

    def test_not_current(self):
        self.answer('no controller answers')
        text = self.run_cli('service', 'list')
        self.assertIn('may be out of date: no controller answers', text)
        self.assertIn('kube-dns', text)

    def test_switched_off(self):
        self.agent.services = describe.services(None, None, {}, {})
        for command in (('list',), ('show', 'shop/web')):
            self.assertIn('[services] enabled', self.run_cli(
                'service', *command, code=1))


class TestShow(ServicesCase):

    def test_a_service(self):
        for name in ('shop/web', '10.96.0.7', 'fd00:96::7'):
            shown = json.loads(self.run_cli('service', 'show', name, '-f',
                                            'json'))
            self.assertEqual(self.agent.services['services'][1], shown)

    def test_for_people(self):
        text = self.run_cli('service', 'show', 'shop/web')
        self.assertIn('TCP/80 http, node port 30080', text)
        self.assertIn('  10.99.3.7:8080 ready on node-a', text)
        self.assertIn('  [fd99::3:7]:8080 draining on node-a', text)

    def test_who_may_ask(self):
        for service, ranges, text in (
                ('shop/web', None, 'everybody'),
                ('kube-system/kube-dns', ['203.0.113.0/24', 'fd77::/64'],
                 '203.0.113.0/24')):
            self.assertEqual(ranges, json.loads(self.run_cli(
                'service', 'show', service, '-f', 'json'))['source_ranges'])
            self.assertIn(text, self.run_cli('service', 'show', service))

    def test_yaml(self):
        self.assertIn('state: draining', self.run_cli(
            'service', 'show', 'shop/web', '-f', 'yaml'))

    def test_unknown(self):
        text = self.run_cli('service', 'show', 'shop/wbe', code=1)
        self.assertIn('near it: shop/web', text)
        self.assertIn('kuryr-cilium service list', text)

    def test_no_agent(self):
        self.agent.socket += '.gone'
        self.assertIn('Is kuryr-cilium-agent running', self.run_cli(
            'service', 'show', 'shop/web', code=1))


class TestMonitor(ServicesCase):

    def setUp(self):
        super().setUp()
        names = events.Names()
        for service in ('shop/web', ''):
            self.agent.ring.add(lambda seq: events.name(
                seq, test_events.event(service=service), names))

    def test_the_service_of_an_event(self):
        to_service, direct = self.run_cli('monitor').splitlines()
        self.assertIn('10.99.3.7:80 by service shop/web  (POLICY)',
                      to_service)
        self.assertNotIn('service', direct)

    def test_json(self):
        self.assertEqual(['shop/web', ''], [
            json.loads(line)['service'] for line in self.run_cli(
                'monitor', '-f', 'json').splitlines()])
