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

"""What does not fit denies, and nobody else notices."""

import random

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.datapath.bpf import limits
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import model
from tests import base
from tests.unit.datapath import sim
from tests.unit.datapath import test_plan

ALLOW = model.Verdict.ALLOW


def ruleset(*peers, ports=None):
    return (model.RuleGroup(model.Tier.NETWORK_POLICY, 0, ALLOW,
                            frozenset(peers), ports),)


def view(memberships, **rulesets):
    """Pod u1 is judged by r1, and so on."""
    return sim.make_view(
        memberships, {model.Direction.INGRESS: rulesets},
        {'u' + name[1:]: (name, model.ALLOW_ALL) for name in rulesets})


class TestLimits(base.TestCase):

    def setUp(self):
        super().setUp()
        self.maps = sim.Maps()
        self.locals = {number: sim.make_local(number, 'u%d' % number)
                       for number in range(1, 5)}

    def planner(self, **fields):
        return plan.Planner(sim.allocator(), limits.Limits(**fields))

    def plan(self, planner, view_):
        planned = planner.plan(view_, self.locals, ())
        self.segments = sim.run(self.maps, planned)
        self.assertEqual(planner.tables(), self.maps.rows)
        return planned.denied

    def judges(self, number, peer='10.9.0.1'):
        return sim.read(lambda: self.maps, number, 'ingress', peer, 6, 80)

    def test_new_ruleset_does_not_push_a_live_one_out(self):
        members = {'a': ('10.9.0.1',)}
        planner = self.planner(rulesets=1)
        self.assertEqual({}, self.plan(planner, view(
            members, r2=ruleset('a'))))
        denied = self.plan(planner, view(
            members, r1=ruleset('a', 'a'), r2=ruleset('a')))
        self.assertEqual(['u1'], list(denied))
        self.assertIn('no room for more rulesets', denied['u1'])
        self.assertEqual('deny', self.judges(1))
        self.assertEqual('allow', self.judges(2))
        self.assertEqual('deny', sim.read(
            lambda: self.maps, 1, 'egress', '10.9.0.1', 6, 80))

    def test_too_many_groups(self):
        planner = self.planner()
        many = tuple(model.RuleGroup(
            model.Tier.NETWORK_POLICY, 0, ALLOW, frozenset('a'),
            frozenset((model.PortRange(6, port, port),)))
            for port in range(4097))
        denied = self.plan(planner, view(
            {'a': ('10.9.0.1',)}, r1=many, r2=ruleset('a')))
        self.assertEqual(['u1'], list(denied))
        self.assertEqual('allow', self.judges(2))
        self.assertEqual(rows.RULESET_DENY,
                         self.maps.rows[rows.ENDPOINT, 1].egress)

    def test_addresses_that_grow(self):
        planner = self.planner(addresses=4)
        self.plan(planner, view({'a': ('10.9.0.1',), 'b': ('10.9.0.2',)},
                                r1=ruleset('a'), r2=ruleset('b')))
        grown = ['10.8.0.%d' % host for host in range(9)]
        denied = self.plan(planner, view(
            {'a': ('10.9.0.1',), 'b': grown},
            r1=ruleset('a'), r2=ruleset('b')))
        self.assertEqual(['u2'], list(denied))
        self.assertEqual('allow', self.judges(1))
        self.assertEqual('deny', self.judges(2, grown[0]))
        # Shrunk again, it is judged again.
        self.assertEqual({}, self.plan(planner, view(
            {'a': ('10.9.0.1',), 'b': grown[:2]},
            r1=ruleset('a'), r2=ruleset('b'))))
        self.assertEqual('allow', self.judges(2, grown[0]))

    def test_too_many_peer_rows(self):
        planner = self.planner(ruleset_peer_rows=8)
        names = 'abcd'
        members = {name: ['10.9.0.%d' % place for place in range(1, 9)
                          if place >> bit & 1]
                   for bit, name in enumerate(names)}
        denied = self.plan(planner, view(
            members, r1=ruleset(*names), r2=ruleset('a')))
        self.assertEqual(['u1'], list(denied))
        self.assertIn('kinds of peers', denied['u1'])
        self.assertEqual('allow', self.judges(2))

    def test_deny_comes_before_everything_else(self):
        # A live ruleset that outgrows its rows must not be read any more
        # when addresses get classes that it has no rows for.
        planner = self.planner(ruleset_peer_rows=5)
        denies = (model.RuleGroup(model.Tier.NETWORK_POLICY, 0,
                                  model.Verdict.DENY, frozenset('abc')),
                  model.RuleGroup(model.Tier.NETWORK_POLICY, 1, ALLOW))
        members = {'a': ('10.9.0.1', '10.9.0.2', '10.9.0.3'), 'b': (),
                   'c': ()}
        self.assertEqual({}, self.plan(planner, view(members, r1=denies)))
        members['b'] = ('10.9.0.1',)
        self.assertEqual(['u1'], list(self.plan(
            planner, view(members, r1=denies))))
        for states in self.segments:
            for maps in states:
                self.assertEqual('deny', sim.read(
                    lambda: maps, 1, 'ingress', '10.9.0.1', 6, 80))

    def test_too_many_port_prefixes(self):
        # Odd ports: no two make a prefix.
        ports = frozenset(model.PortRange(protocol, port, port)
                          for protocol in (6, 17)
                          for port in range(1, 16386, 4))
        planner = self.planner()
        denied = self.plan(planner, view(
            {'a': ('10.9.0.1',)}, r1=ruleset('a', ports=ports),
            r2=ruleset('a')))
        self.assertEqual(['u1'], list(denied))
        self.assertIn('port prefixes', denied['u1'])
        self.assertEqual('allow', self.judges(2))

    def test_too_many_classes(self):
        planner = self.planner(classes=3)
        members = {'a': ('10.9.0.1',), 'b': ('10.9.0.1', '10.9.0.2'),
                   'c': ('10.9.0.3', '10.9.0.4'), 'd': ('10.9.0.4',)}
        denied = self.plan(planner, view(
            members, r1=ruleset('a', 'b', 'c', 'd'), r2=ruleset('a')))
        self.assertEqual(['u1'], list(denied))
        self.assertIn('peer classes', denied['u1'])
        self.assertEqual('allow', self.judges(2))

    def block_view(self, blocks, **rulesets):
        return sim.make_view(
            {'a': ('10.9.0.1',)}, {model.Direction.INGRESS: rulesets},
            {'u' + name[1:]: (name, model.ALLOW_ALL) for name in rulesets},
            blocks=blocks)

    def test_too_many_prefixes(self):
        planner = self.planner(prefixes=3)
        many = model.Block('10.0.0.0/8', ('10.1.0.0/16', '10.2.0.0/16',
                                          '10.3.0.0/16'))
        few = model.Block('10.9.0.0/24', ('10.9.0.7/32',))
        rulesets = {'r1': ruleset('many'), 'r2': ruleset('few', 'a')}
        blocks = {'many': many, 'few': few}
        denied = self.plan(planner, self.block_view(blocks, **rulesets))
        self.assertEqual(['u1'], list(denied))
        self.assertIn('blocks of addresses', denied['u1'])
        self.assertEqual({'10.9.0.0/24'},
                         test_plan.keys(self.maps, rows.CIDR))
        for peer, verdict in (('10.9.0.1', 'allow'), ('10.9.0.9', 'allow'),
                              ('10.9.0.7', 'deny'), ('10.8.0.1', 'deny')):
            self.assertEqual(verdict, self.judges(2, peer))
            self.assertEqual('deny', self.judges(1, peer))
        # Smaller, it fits.
        blocks['less'] = model.Block('10.0.0.0/8', ('10.1.0.0/16',))
        rulesets['r1'] = ruleset('less')
        self.assertEqual({}, self.plan(planner, self.block_view(
            blocks, **rulesets)))
        self.assertEqual('allow', self.judges(1, '10.8.0.1'))
        self.assertEqual('deny', self.judges(1, '10.1.0.1'))
        self.assertEqual('allow', self.judges(1, '10.9.0.1'))

    def test_too_many_blocks_in_each_other(self):
        planner = self.planner(covering=20)
        blocks = {'b%d' % place: model.Block('10.0.0.0/8', (
            '10.%d.0.0/16' % place,)) for place in range(8)}
        denied = self.plan(planner, self.block_view(
            blocks, r1=ruleset(*blocks), r2=ruleset('b1')))
        self.assertEqual(['u1'], list(denied))
        self.assertEqual('allow', self.judges(2))

    def test_a_block_that_is_none_or_another(self):
        planner = self.planner()
        rulesets = {'r1': ruleset('x'), 'r2': ruleset('a')}
        for block, denied in ((model.Block('10.9.0.0/33'), ['u1']),
                              (model.Block('10.9.0.0/24'), []),
                              (model.Block('10.8.0.0/24'), ['u1']),
                              (model.Block('10.8.0.0/24'), [])):
            found = self.plan(planner, self.block_view({'x': block},
                                                       **rulesets))
            self.assertEqual(denied, list(found))
            self.assertEqual('allow', self.judges(2))
        self.assertEqual('deny', self.judges(1))
        self.assertEqual('allow', self.judges(1, '10.8.0.1'))

    def test_entities_that_nothing_tells(self):
        planner = self.planner()
        denied = self.plan(planner, view(
            {'a': ('10.9.0.1',), 'entity:remote-node': ()},
            r1=ruleset('entity:world'), r2=ruleset('a'),
            r3=ruleset('entity:remote-node')))
        self.assertEqual(['u1'], list(denied))
        self.assertIn('selector entity:cluster', denied['u1'])

    def test_missing_parts_of_a_view(self):
        planner = self.planner()
        made = view({'a': ('10.9.0.1',)}, r1=ruleset('a'), r2=ruleset('b'),
                    r3=ruleset('a'))
        del made.rulesets['r3']
        denied = self.plan(planner, made)
        self.assertIn('selector b', denied['u2'])
        self.assertIn('ruleset r3', denied['u3'])
        self.assertEqual('allow', self.judges(1))

    def test_what_is_no_address_is_left_out(self):
        planner = self.planner()
        self.plan(planner, view(
            {'a': ('10.9.0.1', 'nonsense', '10.9.0.300', 'FD00:0::1')},
            r1=ruleset('a')))
        self.assertEqual({'10.9.0.1', 'fd00::1'},
                         test_plan.keys(self.maps, rows.ADDR))

    @hypothesis.settings(deadline=None, max_examples=150)
    @hypothesis.given(test_plan.SEEDS, st.integers(1, 4), st.integers(1, 8),
                      st.integers(4, 12), st.integers(4, 20))
    def test_neighbours_are_judged_by_their_rulesets(
            self, seed, rulesets, addresses, own_rows, all_rows):
        bounds = limits.Limits(
            rulesets=rulesets, addresses=addresses, prefixes=6,
            classes=addresses + 6,
            ruleset_peer_rows=own_rows, peer_rows=all_rows)
        planner = plan.Planner(sim.allocator(), bounds)
        maps = sim.Maps()
        rng = random.Random(seed)
        for view_, active, nodes in test_plan.make_history(seed):
            locals_ = test_plan.locals_for(active)
            planned = planner.plan(view_, locals_, ())
            sim.run(maps, planned)
            self.assertEqual(planner.tables(), maps.rows)
            counted = {table: sum(1 for kind, _ in maps.rows
                                  if kind == table)
                       for table in (rows.ADDR, rows.CIDR, rows.PEER)}
            self.assertLessEqual(counted[rows.CIDR], 6)
            self.assertLessEqual(counted[rows.ADDR], addresses)
            self.assertLessEqual(counted[rows.PEER], all_rows)
            new = (view_, view_.selectors, (), active)
            for number, uid in enumerate(test_plan.UIDS, 1):
                peer = rng.choice(test_plan.PEERS)
                probe = rng.choice(test_plan.PROBES)
                for direction in ('ingress', 'egress'):
                    wanted = {'deny'} if uid in planned.denied else \
                        test_plan.allowed_verdicts(new, new, uid, direction,
                                                   peer, *probe)
                    self.assertEqual(wanted, {sim.read(
                        lambda: maps, number, direction, peer, *probe)})
