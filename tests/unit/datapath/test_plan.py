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

"""Properties of the order of writes."""

import dataclasses
import functools
import itertools
import random
from unittest import mock

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from tests import base
from tests.unit.datapath import sim

ADDRESSES = ('10.9.0.1', '10.9.0.2', '10.9.0.3', '10.9.0.4', 'fd09::1',
             'fd09::2')
NODES = ('192.0.2.1', '10.9.0.4')
REMOTE = ('192.0.2.1', '192.0.2.7', '10.9.0.7', 'fd09::7')
PEERS = (*ADDRESSES, *REMOTE, '198.51.100.1', '10.9.0.200', '10.8.0.1',
         'fd09::200', '2001:db8::1')
SEEDS = st.integers(0, 1 << 32)
SELECTORS = ('a', 'b', 'c', 'd', 'nodes')
ENTITIES = ('entity:host', 'entity:remote-node', 'entity:cluster',
            'entity:world')
BLOCKS = tuple('block%d' % place for place in range(6))
NETWORKS = {
    4: ('0.0.0.0/0', '10.0.0.0/8', '10.9.0.0/16', '10.9.0.0/24',
        '10.9.0.0/30', '10.9.0.2/31', '10.9.0.1/32', '10.9.0.200/32',
        '192.0.2.0/24', '192.0.2.7/32'),
    6: ('::/0', 'fd00::/8', 'fd09::/64', 'fd09::/127', 'fd09::1/128',
        'fd09::200/128')}
RULESETS = 6
UIDS = ('u1', 'u2', 'u3')
PROBES = ((6, 80), (6, 443), (17, 80), (1, 8 << 8))

PORTS = (None, frozenset((model.PortRange(6, 80, 80),)),
         frozenset((model.PortRange(6),)),
         frozenset((model.PortRange(6, 64, 500),
                    model.PortRange(17, 80, 80))),
         frozenset((model.PortRange(0),)))
VERDICTS = (model.Verdict.ALLOW, model.Verdict.ALLOW, model.Verdict.DENY,
            model.Verdict.PASS)


# NOTE: worlds are made from a seed: what strategies would draw is mostly too
# thin for two views to differ in a verdict.

def make_groups(rng):
    groups = [model.RuleGroup(
        rng.choice(tuple(model.Tier)), 0, rng.choice(VERDICTS),
        rng.choice((None, *[frozenset(rng.sample(
            (*SELECTORS, *ENTITIES, *BLOCKS), rng.randint(1, 3)))] * 4)),
        rng.choice(PORTS)) for _ in range(rng.randint(1, 7))]
    return tuple(sorted(groups, key=lambda group: group.tier))


def make_block(rng):
    networks = NETWORKS[rng.choice((4, 4, 6))]
    return model.Block(rng.choice(networks), tuple(sorted(rng.sample(
        networks, rng.choice((0, 0, 1, 2))))), rng.random() < .3)


def change(rng, world):
    """Another world: some parts anew, some as they were."""
    memberships, judged, active, nodes = world
    memberships = {
        name: frozenset(address for address in (
            REMOTE if name == 'nodes' else ADDRESSES) if rng.random() < .4)
        if rng.random() < .5 else members
        for name, members in memberships.items() if name in SELECTORS}
    # Whoever is in a selector is in the one of its entity.
    memberships['entity:remote-node'] = memberships['nodes'] | {
        address for address in REMOTE if rng.random() < .5}
    memberships['entity:cluster'] = frozenset(
        address for address in ADDRESSES if rng.random() < .5).union(
            *(memberships[name] for name in SELECTORS if name != 'nodes'))
    if rng.random() < .7:
        choices = ['r%d' % place for place in range(RULESETS)] * 3 + [
            model.ALLOW_ALL, model.DENY_ALL]
        judged = {uid: (rng.choice(choices), rng.choice(choices))
                  for uid in UIDS if rng.random() < .9}
    if rng.random() < .2:
        active = frozenset(uid for uid in UIDS if rng.random() < .8)
    if rng.random() < .2:
        nodes = rng.choice((NODES, NODES[:1]))
    return memberships, judged, active, nodes


def make_history(seed):
    rng = random.Random(seed)
    rulesets = {model.Direction.INGRESS: {
        'r%d' % place: make_groups(rng) for place in range(RULESETS)}}
    blocks = {name: make_block(rng) for name in BLOCKS}
    world = (dict.fromkeys(SELECTORS, frozenset()), {}, frozenset(UIDS),
             NODES)
    history = []
    for _ in range(rng.randint(2, 5)):
        world = change(rng, world)
        memberships, judged, active, nodes = world
        history.append((sim.make_view(memberships, rulesets, judged,
                                      blocks=blocks, remote=REMOTE),
                        active, nodes))
    return history


def locals_for(active):
    return {place: sim.make_local(place, uid, uid in active)
            for place, uid in enumerate(UIDS, 1)}


def allowed_verdicts(old, new, uid, direction, peer, protocol, port):
    """Verdicts before, in the middle (new members, old rulesets), after.

    In the middle a new member of some selector is what it is, though the
    selectors of entities may not be told anew.
    """
    found = set()
    middle = {**old[1], **{name: new[1][name] for name in named(new[0])}}
    entity = {name: new[1][name] for name in ENTITIES if name in new[1]}
    for view, selectors, nodes, active in (
            old, (old[0], middle, new[2], old[3]),
            (old[0], {**middle, **entity}, new[2], old[3]), new):
        endpoint = view and view.endpoints.get(uid)
        if endpoint is None or uid not in active:
            found.add('deny')
        else:
            found.add(sim.verdict(
                view, selectors, nodes, getattr(endpoint, direction), peer,
                protocol, port))
    return found


def named(view):
    return entities.needed((
        name for endpoint in view.endpoints.values()
        for ruleset in (endpoint.ingress, endpoint.egress)
        if ruleset in view.rulesets
        for group in view.rulesets[ruleset].groups
        for name in group.peers or ()), {
            name for name, selector in view.selectors.items()
            if selector.block and selector.block.outside})


EMPTY = (None, {}, (), frozenset())


class TestOrder(base.TestCase):

    def play(self, history, check, page_bits):
        rows.pages.cache_clear()
        self.addCleanup(rows.pages.cache_clear)
        with mock.patch.object(compiler, 'PAGE_BITS', page_bits):
            planner = plan.Planner(sim.allocator())
            maps = sim.Maps()
            old = EMPTY
            for view, active, nodes in history:
                new = (view, view.selectors, nodes, active)
                planned = planner.plan(view, locals_for(active), nodes)
                segments = sim.run(maps, planned)
                check(segments, old, new)
                self.assertEqual(planner.tables(), maps.rows)
                old = new
            return planner, maps

    @hypothesis.settings(deadline=None, max_examples=200)
    @hypothesis.given(SEEDS, st.sampled_from((2, 256)))
    def test_verdict_is_of_before_or_after(self, seed, page_bits):
        rng = random.Random(seed)

        def check(segments, old, new):
            for states in segments:
                for _ in range(40):
                    self.check_packet(states, old, new, rng)

        self.play(make_history(seed), check, page_bits)

    def check_packet(self, states, old, new, rng):
        number = rng.choice(range(1, len(UIDS) + 1))
        direction = rng.choice(('ingress', 'egress'))
        peer = rng.choice(PEERS)
        protocol, port = rng.choice(PROBES)
        now = rng.randrange(len(states))
        slow = rng.choice((True, True, False))

        def at():
            nonlocal now
            if slow and rng.random() < .5:
                now = rng.randrange(now, len(states))
            return states[now]

        verdict = sim.read(at, number, direction, peer, protocol, port)
        self.assertIn(verdict, allowed_verdicts(
            old, new, UIDS[number - 1], direction, peer, protocol, port))

    @hypothesis.settings(deadline=None, max_examples=100)
    @hypothesis.given(SEEDS, st.sampled_from((2, 256)))
    def test_ends_as_if_built_from_nothing(self, seed, page_bits):
        history = make_history(seed)
        _, maps = self.play(history, lambda *args: None, page_bits)
        _, fresh = self.play(history[-1:], lambda *args: None, page_bits)
        view, active, nodes = history[-1]
        new = (view, view.selectors, nodes, active)
        for kind in (rows.ADDR, rows.CIDR, rows.LOCAL, rows.ENDPOINT):
            self.assertEqual(keys(fresh, kind), keys(maps, kind))
        for kind in (rows.GROUP, rows.PORT):
            self.assertEqual(len(keys(fresh, kind)), len(keys(maps, kind)))
        with mock.patch.object(compiler, 'PAGE_BITS', page_bits):
            for number, uid in enumerate(UIDS, 1):
                for direction in ('ingress', 'egress'):
                    for peer in PEERS:
                        for probe in PROBES:
                            self.assertEqual(
                                allowed_verdicts(new, new, uid, direction,
                                                 peer, *probe),
                                {sim.read(lambda: maps, number, direction,
                                          peer, *probe)})

    @hypothesis.settings(deadline=None, max_examples=100)
    @hypothesis.given(SEEDS)
    def test_cleaning_can_wait(self, seed):
        rng = random.Random(seed)
        planner, maps = plan.Planner(sim.allocator()), sim.Maps()
        history = make_history(seed)
        for view, active, nodes in [*history, history[-1]]:
            planned = planner.plan(view, locals_for(active), nodes)
            last = dataclasses.replace(planned, clean=tuple)
            sim.run(maps, planned if rng.random() < .3 else last)
        sim.run(maps, planner.plan(view, locals_for(active), nodes))
        self.assertEqual(planner.tables(), maps.rows)

    @hypothesis.settings(deadline=None, max_examples=100)
    @hypothesis.given(SEEDS)
    def test_what_changes_is_judged_again(self, seed):
        def check(segments, old, new):
            before, after = segments[0][0], segments[-1][-1]
            for number, uid in enumerate(UIDS, 1):
                if uid not in old[3] or uid not in new[3]:
                    continue
                for direction in ('ingress', 'egress'):
                    for peer in PEERS:
                        one, two = (
                            sim.read(lambda: maps, number, direction, peer,
                                     6, 80) for maps in (before, after))
                        if one != two:
                            self.assertLess(before.epoch, after.epoch)

        self.play(make_history(seed), check, 256)

    def test_slow_packet_of_an_address_that_leaves_a_class(self):
        """Its class gets another meaning when the others change alike."""
        rulesets = {model.Direction.INGRESS: {'r0': (model.RuleGroup(
            model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
            frozenset('b')), model.RuleGroup(
            model.Tier.NETWORK_POLICY, 0, model.Verdict.DENY,
            frozenset('a')))}}
        judged = {'u1': ('r0', model.ALLOW_ALL)}
        three = ADDRESSES[:3]
        planner, maps = plan.Planner(sim.allocator()), sim.Maps()
        for members in ((), three[1:]):
            planned = planner.plan(
                sim.make_view({'a': three, 'b': members}, rulesets, judged),
                locals_for(UIDS), ())
            segments = sim.run(maps, planned)
        self.assertIn(plan.Phase.REDEFINED,
                      [step.phase for step in planned.steps])
        for states in segments:
            times = itertools.combinations_with_replacement(states, 3)
            for first, second, rest in times:
                at = itertools.chain((first, second), itertools.repeat(rest))
                self.assertEqual('deny', sim.read(
                    functools.partial(next, at), 1, 'ingress', three[0],
                    6, 80))

    def test_address_becomes_one_of_the_node(self):
        view = sim.make_view(
            {'a': ADDRESSES[3:4]},
            {model.Direction.INGRESS: {'r0': (model.RuleGroup(
                model.Tier.NETWORK_POLICY, 0, model.Verdict.DENY,
                frozenset(('entity:host',))), model.RuleGroup(
                model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
                frozenset('a')))}}, {'u1': ('r0', model.ALLOW_ALL)})
        planner, maps = plan.Planner(sim.allocator()), sim.Maps()
        for nodes, verdict in (((), 'allow'), (ADDRESSES[3:4], 'deny'),
                               ((), 'allow')):
            sim.run(maps, planner.plan(view, locals_for(UIDS), nodes))
            self.assertEqual(planner.tables(), maps.rows)
            self.assertEqual(verdict, sim.read(
                lambda: maps, 1, 'ingress', ADDRESSES[3], 6, 80))

    def test_world_becomes_a_pod(self):
        """A block of one address, which some pod gets and loses."""
        block = {'x': model.Block('10.9.0.1/32')}
        rulesets = {model.Direction.INGRESS: {'r0': (model.RuleGroup(
            model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
            frozenset(('x', 'entity:cluster'))),)}}
        planner, maps = plan.Planner(sim.allocator()), sim.Maps()
        key = rows.ADDR, rows.AddrKey(planner.spaces[4], '10.9.0.1')
        for pods, entity in (((), 4), (('10.9.0.1',), 1), ((), 4)):
            sim.run(maps, planner.plan(sim.make_view(
                {'entity:cluster': pods, 'entity:remote-node': ()}, rulesets,
                {'u1': ('r0', model.ALLOW_ALL)}, blocks=block),
                locals_for(UIDS), ()))
            self.assertEqual(entity, maps.rows[key].entity)
            self.assertEqual('allow', sim.read(
                lambda: maps, 1, 'ingress', '10.9.0.1', 6, 80))
            self.assertEqual('deny', sim.read(
                lambda: maps, 1, 'ingress', '10.9.0.2', 6, 80))

    def test_blocks_are_nested_newly(self):
        def rules(*peers):
            return (model.RuleGroup(model.Tier.NETWORK_POLICY, 0,
                                    model.Verdict.DENY, frozenset(peers)),
                    model.RuleGroup(model.Tier.NETWORK_POLICY, 1,
                                    model.Verdict.ALLOW))

        rulesets = {model.Direction.INGRESS: {
            'r0': rules('wide'), 'r1': rules('wide', 'narrow')}}
        blocks = {'wide': model.Block('0.0.0.0/0', ('10.0.0.0/8',)),
                  'narrow': model.Block('10.9.0.0/24', ('10.9.0.2/31',))}
        planner, maps = plan.Planner(sim.allocator()), sim.Maps()
        for name, prefixes in (
                ('r0', {'0.0.0.0/0', '10.0.0.0/8'}),
                ('r1', {'0.0.0.0/0', '10.0.0.0/8', '10.9.0.0/24',
                        '10.9.0.2/31'}),
                ('r0', {'0.0.0.0/0', '10.0.0.0/8'})):
            sim.run(maps, planner.plan(sim.make_view(
                {}, rulesets, {'u1': (name, model.ALLOW_ALL)},
                blocks=blocks), locals_for(UIDS), ()))
            self.assertEqual(prefixes, keys(maps, rows.CIDR))
            for peer, verdict in (
                    ('10.9.0.1', 'deny' if name == 'r1' else 'allow'),
                    ('10.9.0.3', 'allow'), ('10.8.0.1', 'allow'),
                    ('192.0.2.1', 'deny'), ('2001:db8::1', 'allow')):
                self.assertEqual(verdict, sim.read(
                    lambda: maps, 1, 'ingress', peer, 6, 80))

    def test_same_view_again_writes_nothing(self):
        view = sim.make_view(
            {'a': ADDRESSES[:2]},
            {model.Direction.INGRESS: {'r0': (model.RuleGroup(
                model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
                frozenset('a')),)}}, {'u1': ('r0', model.ALLOW_ALL)})
        planner = plan.Planner(sim.allocator())
        planner.plan(view, locals_for(UIDS), NODES)
        self.assertEqual((), planner.plan(
            view, locals_for(UIDS), NODES).steps)


def keys(maps, table):
    """Keys without numbers that depend on history."""
    return {getattr(key, 'address', getattr(key, 'network', key))
            for name, key in maps.rows if name == table}
