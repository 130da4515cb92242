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

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium import exceptions
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from tests import base

SETTINGS = hypothesis.settings(deadline=None, derandomize=True)
POD, WORLD = entities.Entity.POD, entities.Entity.WORLD
ALLOW, DENY, PASS = (model.Verdict.ALLOW, model.Verdict.DENY,
                     model.Verdict.PASS)

RANGES = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted)

PORTS = st.one_of(st.none(), st.lists(st.builds(
    lambda protocol, ends: model.PortRange(protocol, *(
        ends if protocol else (0, 65535))),
    st.sampled_from((0, 6, 6, 6, 17)), RANGES), min_size=1,
    max_size=4).map(frozenset))

GROUPS = st.builds(
    model.RuleGroup, st.sampled_from(model.Tier), st.just(0),
    st.sampled_from(model.Verdict),
    st.one_of(st.none(), st.frozensets(
        st.sampled_from(('s1', 's2', 's3', entities.WORLD)), min_size=1)),
    PORTS)

RULESETS = st.lists(GROUPS, max_size=6).map(lambda groups: ruleset(
    *sorted(groups, key=lambda group: group.tier)))


def ruleset(*groups):
    return model.RuleSet('r', model.Direction.INGRESS, groups)


def group(verdict=ALLOW, peers=None, ports=None,
          tier=model.Tier.NETWORK_POLICY):
    return model.RuleGroup(
        tier, 0, verdict, None if peers is None else frozenset(peers),
        None if ports is None else frozenset(ports))


def read(groups, matched, protocol, port):
    """The deciding group, by reading the groups one after another."""
    passed = None
    for number, item in enumerate(groups):
        if item.tier == passed:
            continue
        if item.peers is not None and not item.peers & matched:
            continue
        if item.ports is not None and not any(
                not ports.protocol or ports.protocol == protocol and
                ports.first <= port <= ports.last for ports in item.ports):
            continue
        if item.verdict is PASS:
            passed = item.tier
            continue
        return number
    return None


class TestPrefixes(base.TestCase):

    @SETTINGS
    @hypothesis.given(RANGES)
    def test_a_range_is_the_union_of_its_prefixes(self, ends):
        prefixes = list(compiler.port_prefixes(*ends))
        self.assertLessEqual(len(prefixes), 30)
        at = ends[0]
        for port, length in prefixes:
            self.assertEqual(at, port)
            self.assertEqual(0, port % (1 << 16 - length))
            at += 1 << 16 - length
        self.assertEqual(ends[1] + 1, at)

    def test_known_ranges(self):
        for ends, count in (((0, 65535), 1), ((80, 80), 1),
                            ((1, 65534), 30), ((1, 65535), 16),
                            ((1024, 65535), 6)):
            self.assertEqual(count,
                             len(list(compiler.port_prefixes(*ends))))


class TestJudge(base.TestCase):

    @SETTINGS
    @hypothesis.given(
        RULESETS, st.frozensets(st.sampled_from(('s1', 's2', 's3'))),
        st.sampled_from((POD, WORLD)), st.data())
    def test_tables_say_what_the_groups_say(self, rules, selectors, entity,
                                            data):
        table = compiler.compile_ruleset(rules)
        ends = [end for item in rules.groups for ports in item.ports or ()
                for end in (ports.first, ports.last, ports.last + 1)
                if end < 65536]
        matched = selectors | entities.SELECTORS[entity]
        for protocol in (6, 17, 1):
            port = data.draw(st.sampled_from(ends or [80]))
            decided = compiler.judge(table, selectors, entity, protocol,
                                     port)
            self.assertEqual(
                read(rules.groups, matched, protocol, port),
                None if decided is None else decided.bit)

    def test_nothing_matches(self):
        table = compiler.compile_ruleset(ruleset())
        self.assertIsNone(compiler.judge(table, (), POD, 6, 80))

    def test_pass_goes_on_in_the_next_tier(self):
        table = compiler.compile_ruleset(ruleset(
            group(PASS, tier=model.Tier.ADMIN),
            group(ALLOW, tier=model.Tier.ADMIN),
            group(ALLOW, ports=[model.PortRange(6, 80, 80)]),
            group(DENY, tier=model.Tier.BASELINE)))
        self.assertEqual([2, 2, 3, 4],
                         [item.next_tier for item in table.groups])
        self.assertEqual(2, compiler.judge(table, (), POD, 6, 80).bit)
        self.assertEqual(3, compiler.judge(table, (), POD, 6, 81).bit)


class TestRows(base.TestCase):

    def test_a_row_only_where_it_differs_from_the_base(self):
        table = compiler.compile_ruleset(ruleset(
            group(), group(peers=['s1']), group(peers=[entities.WORLD])))
        self.assertEqual(0b001, table.base_bits(POD))
        self.assertEqual(0b101, table.base_bits(WORLD))
        self.assertEqual(0b011, table.peer_bits(['s1', 'other'], POD))
        self.assertTrue(table.needs_row(['s1'], POD))
        self.assertFalse(table.needs_row(['other'], POD))

    def test_port_closure(self):
        key = compiler.PortKey
        bits = compiler.port_bits(ruleset(
            group(),
            group(ports=[model.PortRange(6)]),
            group(ports=[model.PortRange(6, 0, 1023)]),
            group(ports=[model.PortRange(6, 80, 80)]),
            group(ports=[model.PortRange(17, 80, 80)])))
        self.assertEqual({
            compiler.ANY_PORT: 0b00001, key(6, 0, 0): 0b00011,
            key(6, 0, 6): 0b00111, key(6, 80, 16): 0b01111,
            key(17, 80, 16): 0b10001}, bits)

    def test_what_a_shorter_prefix_answers_is_left_out(self):
        self.assertEqual(1, len(compiler.port_bits(ruleset(group(ports=[
            model.PortRange(6), model.PortRange(6, 80, 80)])))))

    def test_pages(self):
        self.assertEqual((compiler.Page(0, (0, 0, 0, 0), 0),),
                         compiler.pages(0))
        self.assertEqual((compiler.Page(0, (1, 0, 0, 1 << 63), 1),),
                         compiler.pages(1 | 1 << 255))
        self.assertEqual(
            (compiler.Page(0, (0, 0, 0, 0), 0b1010),
             compiler.Page(1, (1, 0, 0, 0), 0b1010),
             compiler.Page(3, (0, 1, 0, 0), 0b1010)),
            compiler.pages(1 << 256 | 1 << 3 * 256 + 64))

    @SETTINGS
    @hypothesis.given(st.integers(0, (1 << 4096) - 1))
    def test_pages_hold_every_bit(self, bits):
        found = 0
        for page, words, mask in compiler.pages(bits):
            for number, word in enumerate(words):
                found |= word << page * 256 + number * 64
        self.assertEqual(bits, found)


class TestLimits(base.TestCase):

    def test_groups(self):
        groups = [group(peers=['s%d' % n]) for n in range(4096)]
        compiler.compile_ruleset(ruleset(*groups))
        error = self.assertRaises(
            exceptions.RuleSetTooLarge, compiler.compile_ruleset,
            ruleset(*groups, group(peers=['one more'])))
        self.assertIn('4097 rule groups and may have 4096', str(error))

    def test_port_prefixes(self):
        ports = [model.PortRange(6, n, n) for n in range(0, 2 * 8193, 2)]
        compiler.compile_ruleset(ruleset(group(ports=ports[:-1])))
        error = self.assertRaises(
            exceptions.RuleSetTooLarge, compiler.compile_ruleset,
            ruleset(group(ports=ports)))
        self.assertIn('8193 port prefixes and may have 8192', str(error))
