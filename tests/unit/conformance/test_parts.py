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

"""The pure parts of the conformance command."""

from tests import base
from tests.conformance import cast
from tests.conformance import expect
from tests.conformance import probes
from tests.conformance import scenario
from tests.conformance import table

NODES = ('node-a', 'node-b')


def probe(source, destination, protocol='tcp', port=80, version=4):
    return cast.Probe(source, destination, protocol, port, version)


def allowed(asked, *lines):
    return expect.allowed([expect.parse(line) for line in lines], asked,
                          NODES)


class TestExpect(base.TestCase):

    def test_what_no_line_fits_is_allowed(self):
        self.assertTrue(allowed(probe('x/a', 'y/b')))

    def test_the_last_line_that_fits_decides(self):
        lines = ('deny * -> y/*', 'allow x/*,out-1 -> y/b tcp/80 udp v4')
        self.assertFalse(allowed(probe('z/a', 'y/b'), *lines))
        self.assertTrue(allowed(probe('x/a', 'y/b'), *lines))
        self.assertTrue(allowed(probe('out-1', 'y/b', 'udp', 81), *lines))
        self.assertFalse(allowed(probe('out-2', 'y/b'), *lines))
        self.assertFalse(allowed(probe('x/a', 'y/b', port=81), *lines))
        self.assertFalse(allowed(probe('x/a', 'y/b', version=6), *lines))
        self.assertFalse(allowed(probe('x/a', 'y/b', 'icmp', None), *lines))
        self.assertTrue(allowed(probe('x/a', 'z/b'), *lines))

    def test_no_policy_keeps_a_pod_from_itself_or_its_node_from_it(self):
        self.assertTrue(allowed(probe('x/a', 'x/a'), 'deny * -> *'))
        self.assertTrue(allowed(probe('node-a', 'x/a'), 'deny * -> *'))
        self.assertFalse(allowed(probe('node-b', 'x/a'), 'deny * -> *'))
        self.assertFalse(allowed(probe('x/a', 'node-a'), 'deny * -> *'))

    def test_lines_that_say_nothing_are_refused(self):
        for line in ('forbid * -> *', 'allow x/a y/b', 'deny x/d -> *',
                     'deny * -> x/a igmp', 'deny * -> x/*,w/*'):
            self.assertRaises(expect.BadLine, expect.parse, line)


class TestTable(base.TestCase):

    def test_a_cell_tells_ports_families_and_differences(self):
        outcome = {
            ('tcp', 80, 4): (True, 'answer'), ('tcp', 80, 6): (True, 'answer'),
            ('tcp', 81, 4): (False, None), ('tcp', 81, 6): (False, None),
            ('udp', 80, 4): (True, 'answer'), ('udp', 80, 6): (False, None),
            ('udp', 81, 4): (False, None), ('udp', 81, 6): (True, 'answer'),
            ('icmp', None, 4): (True, None), ('icmp', None, 6): (False, None)}
        expected, seen = {}, {}
        for what, (allow, answer) in outcome.items():
            asked = probe('x/a', 'y/b', *what)
            expected[asked], seen[asked] = allow, answer
        self.assertEqual(
            '    x/a   y/b\nx/a ----- .X46!\ny/b ----- -----',
            table.render(expected, seen, ['x/a', 'y/b']))
        self.assertEqual(
            ['x/a -> y/b icmp v4: expected answer, seen silence (so)'],
            [str(each) for each in table.differences(
                expected, seen, lambda _probe: 'so')])

    def test_refused_is_neither_reached_nor_denied(self):
        asked = probe('x/a', 'y/b')
        for allow in (True, False):
            self.assertEqual(1, len(table.differences(
                {asked: allow}, {asked: probes.REFUSED}, str)))


class TestScenario(base.TestCase):

    def test_addresses_are_filled_in(self):
        self.assertEqual(
            {'to': [{'cidr': 'x/a-4/32', 'except': ['out-1-6/128']}],
             'port': 80},
            scenario.fill({'to': [{'cidr': '${x/a.v4}/32',
                                   'except': ['${out-1.v6}/128']}],
                           'port': 80}, '{}-{}'.format))

    def test_scenarios_are_chosen_by_their_text(self):
        chosen = scenario.load('cilium: nobody')
        self.assertEqual(['Nobody'], [item.name for item in chosen])
        self.assertEqual([], scenario.load('no such text'))


class TestCast(base.TestCase):

    def test_each_namespace_is_on_both_nodes(self):
        for namespace in cast.NAMESPACES:
            self.assertEqual(set(NODES), {
                cast.node_of('%s/%s' % (namespace, pod), NODES)
                for pod in cast.PODS})

    def test_probes_have_a_pod_at_an_end(self):
        asked = list(cast.probes(NODES))
        self.assertEqual(len(asked), len(set(asked)))
        self.assertEqual((9 * 9 + 2 * 9 * 4) * 5 * 2, len(asked))
        self.assertFalse([item for item in asked if '/' not in item.source
                          and '/' not in item.destination])

    def test_checksum(self):
        # RFC 1071, section 3: the sum of the example is ddf2.
        self.assertEqual(0xddf2 ^ 0xffff, probes.checksum(
            bytes.fromhex('0001f203f4f5f6f7')))
