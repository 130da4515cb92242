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

"""How long connections last, and what events are called."""

import re

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import events
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.policy import model
from tests import base

FLAG = layout.CtFlag


class TestLifetime(base.TestCase):

    def test_by_state(self):
        for protocol, flags, busy, seconds in (
                (6, 0, False, 60), (6, FLAG.REPLIED, False, 86400),
                (6, FLAG.REPLIED, True, 7200),
                (6, FLAG.REPLIED | FLAG.CLOSING, True, 10),
                (132, FLAG.REPLIED, False, 86400),
                (17, 0, False, 30), (17, FLAG.REPLIED, True, 180),
                (6, FLAG.REPLIED | FLAG.TOMBSTONE, False, 120),
                (17, FLAG.TOMBSTONE, False, 120)):
            self.assertEqual(seconds * 10 ** 9, conntrack.lifetime(
                protocol, flags, busy), (protocol, flags, busy))

    def test_programs_have_the_same_times(self):
        with open(loader._SOURCES + '/kc_conn.h') as stream:
            found = dict(re.findall(
                r'#define KC_LIFE_(\w+) \((\d+) \* KC_SECOND\)',
                stream.read()))
        self.assertEqual(
            {'TCP': conntrack.TCP, 'SYN': conntrack.TCP_OPENING,
             'CLOSING': conntrack.TCP_CLOSING,
             'OTHER': conntrack.OTHER, 'OTHER_NEW': conntrack.OTHER_NEW,
             'TOMBSTONE': conntrack.TOMBSTONE},
            {name: int(value) * 10 ** 9 for name, value in found.items()})


class TestEvents(base.TestCase):

    def setUp(self):
        super().setUp()
        self.names = events.Names()
        self.names.add_endpoint(7, 'uid')
        self.names.add_ruleset(20, model.RuleSet(
            'r', model.Direction.INGRESS, (), (('a', 'b'), ('c',))))

    def translate(self, **fields):
        made = layout.Event(
            time=2 * 10 ** 9, endpoint=7, ruleset=20, bit=1, length=64,
            source='10.0.0.1', destination='10.0.0.2', source_port=5,
            destination_port=80, ethertype=0x0800, protocol=6, direction=0,
            reason=0)._replace(**fields)
        return events.translate(layout.Event.unpack(made.pack()), self.names,
                                1000.0)

    def test_first_verdict(self):
        event = self.translate()
        self.assertEqual(
            (1002.0, 'uid', 'ingress', 'allow', '', '10.0.0.1', '10.0.0.2', 6,
             5, 80, ('c',)),
            (event.time, event.uid, event.direction, event.verdict,
             event.reason, event.source, event.destination, event.protocol,
             event.source_port, event.destination_port, event.rule))

    def test_drop_that_no_group_decided(self):
        event = self.translate(reason=layout.Reason.POLICY, direction=1,
                               bit=layout.Event.NO_BIT)
        self.assertEqual(('egress', 'drop', 'policy', ()), (
            event.direction, event.verdict, event.reason, event.rule))

    def test_unknown_numbers(self):
        event = self.translate(endpoint=1, ruleset=1, reason=63)
        self.assertEqual(('', (), 'reason-63'),
                         (event.uid, event.rule, event.reason))

    def test_no_ip(self):
        event = self.translate(source='::', ethertype=0x0806, protocol=1)
        self.assertEqual(('', 0), (event.source, event.protocol))

    def test_names_are_bounded(self):
        for number in range(10, 10 + events._REMEMBERED):
            self.names.add_endpoint(number, 'other')
        self.assertEqual('', self.names.uid(7))
