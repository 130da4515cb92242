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


from kuryr_cilium.agent import trace
from kuryr_cilium.datapath import driver
from kuryr_cilium import exceptions
from tests import base

QUERY = {'uid': 'u1', 'direction': 'ingress', 'peer': '10.0.0.1',
         'protocol': '6', 'port': '80'}


class Datapath:
    """Explains whatever it is asked for."""

    def explain(self, uid, direction, peer, protocol, port=None):
        if uid != 'u1':
            raise exceptions.NotFound(what=uid, command='list')
        return driver.Explanation(
            uid, direction.value, peer, protocol, port, 16, 'pod', '', 17,
            'r1', 0, 'allow', '', ('NetworkPolicy/ns/a ingress[0]',),
            'network_policy')

    def backends(self, address, port, protocol):
        if not port:
            raise ValueError('port 0 is not 1 to 65535')
        if address != '172.30.0.1':
            return None
        return driver.Asked('ns/web', ((address, port + 1),))


class TestBackends(base.TestCase):

    QUERY = {'address': '172.30.0.1', 'port': '80', 'protocol': '6'}

    def ask(self, **query):
        return trace.backends(Datapath(), {**self.QUERY, **query})

    def test_fields(self):
        self.assertEqual({'service': 'ns/web', 'backends': [
            {'address': '172.30.0.1', 'port': 81}]}, self.ask())
        self.assertEqual({'service': None, 'backends': []},
                         self.ask(address='10.0.0.1'))

    def test_refusals_name_the_field(self):
        for field in self.QUERY:
            for value in ('', 'x') if field != 'address' else ('',):
                self.assertIn(field if not value else value, str(
                    self.assertRaises(exceptions.QueryInvalid, self.ask,
                                      **{field: value})))
        self.assertIn('port', str(self.assertRaises(
            exceptions.QueryInvalid, self.ask, port='0')))


class TestTrace(base.TestCase):

    def test_fields(self):
        self.assertEqual({
            'uid': 'u1', 'direction': 'ingress', 'peer': '10.0.0.1',
            'protocol': 6, 'port': 80, 'class': 16, 'entity': 'pod',
            'prefix': '', 'ruleset': 17, 'ruleset_id': 'r1', 'bit': 0,
            'verdict': 'allow', 'reason': '',
            'rule': ('NetworkPolicy/ns/a ingress[0]',),
            'tier': 'network_policy'}, trace.answer(Datapath(), QUERY))

    def test_refusals_name_the_field(self):
        for field in ('uid', 'direction', 'peer', 'protocol'):
            query = {name: value for name, value in QUERY.items()
                     if name != field}
            self.assertIn(field, str(self.assertRaises(
                exceptions.QueryInvalid, trace.answer, Datapath(), query)))
        for field, value in (('direction', 'up'), ('protocol', 'tcp'),
                             ('protocol', '-6'), ('port', 'http'),
                             ('port', '\u0663'), ('uid', 'u2')):
            self.assertIn(
                value if field == 'uid' else field,
                str(self.assertRaises(
                    exceptions.QueryInvalid, trace.answer, Datapath(),
                    {**QUERY, field: value})))
