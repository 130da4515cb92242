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

from kuryr_cilium.policy import classes
from kuryr_cilium.policy import entities
from tests import base

POD, WORLD = entities.Entity.POD, entities.Entity.WORLD
ADDRESSES = ['a%d' % number for number in range(8)]
SELECTORS = ['s1', 's2', 's3']

CHANGES = st.lists(st.dictionaries(
    st.sampled_from(SELECTORS), st.frozensets(st.sampled_from(ADDRESSES))),
    min_size=1, max_size=6)


def numbered(prefix, first, last):
    return ['%s%d' % (prefix, number) for number in range(first, last)]


class Node:
    """Tables as a datapath has them; a row is what a class stands for."""

    def __init__(self, found):
        self.classes = found
        self.rows = {}
        self.addresses = {}

    def judged(self):
        """What each address is judged as; the world has no class."""
        return {address: self.rows[self.addresses[address]]
                if address in self.addresses else None
                for address in ADDRESSES}

    def carry_out(self, update):
        """Each single write, and what is judged after it."""
        definitions = self.classes.definitions
        for number in update.created:
            self.rows[number] = definitions[number]
        yield self.judged()
        for address, number in update.moves.items():
            self.addresses[address] = number
            yield self.judged()
        for address in update.gone:
            del self.addresses[address]
            yield self.judged()
        for number in update.redefined:
            self.rows[number] = definitions[number]
            yield self.judged()
        for number in update.dropped:
            del self.rows[number]
        yield self.judged()


class TestClasses(base.TestCase):

    def setUp(self):
        super().setUp()
        self.classes = classes.Classes(classes.counter())

    def test_equal_peers_have_one_class(self):
        update = self.classes.update({'s1': ['a', 'b', 'c'], 's2': ['c']})
        self.assertEqual({'a': 16, 'b': 16, 'c': 17}, update.moves)
        self.assertEqual((16, 17), update.created)
        self.assertEqual(classes.Definition(POD, frozenset({'s1', 's2'})),
                         self.classes.definitions[17])

    def test_the_smaller_part_moves(self):
        pods = numbered('p', 0, 1000)
        self.classes.update({'s1': pods})
        for moved, members in ((100, pods[100:]), (200, pods[:300])):
            update = self.classes.update({'s2': members})
            self.assertLessEqual(len(update.moves), moved)

    def test_a_selector_of_all_moves_nothing(self):
        pods = numbered('p', 0, 1000)
        self.classes.update({'s1': pods})
        update = self.classes.update({'s2': pods})
        self.assertEqual(((), {}, (16,)),
                         (update.created, update.moves, update.redefined))

    def test_what_matches_nothing_has_no_class(self):
        self.classes.update({'s1': ['a', 'b']})
        update = self.classes.update({'s1': ['b']})
        self.assertEqual(('a',), update.gone)
        update = self.classes.forget(['s1'])
        self.assertEqual((('b',), (16,)), (update.gone, update.dropped))
        self.assertEqual({}, self.classes.definitions)

    def test_forgetting_moves_nothing(self):
        # Until two small classes of one definition become one.
        pods = numbered('p', 0, 1000)
        self.classes.update({'s1': pods, 's2': pods[:500]})
        update = self.classes.forget(['s2'])
        self.assertEqual({}, update.moves)
        self.assertEqual(1, len(update.redefined))
        update = self.classes.update({'s1': pods[300:]})
        self.assertEqual({}, update.moves)
        update = self.classes.forget(())
        self.assertEqual(200, len(update.moves))
        self.assertEqual(1, len(update.dropped))

    def test_entities(self):
        update = self.classes.update(
            {'s1': ['a']}, {'a': WORLD, 'n': entities.Entity.REMOTE_NODE})
        self.assertEqual({'a', 'n'}, set(update.moves))
        self.assertEqual(
            WORLD, self.classes.definitions[update.moves['a']].entity)
        # The entity is written with the address.
        update = self.classes.update({}, {'a': None})
        self.assertEqual({}, update.moves)
        update = self.classes.forget(())
        self.assertEqual(
            POD, self.classes.definitions[update.moves['a']].entity)
        self.assertEqual(('n',), self.classes.update({}, {'n': None}).gone)

    @hypothesis.settings(deadline=None, max_examples=300, derandomize=True)
    @hypothesis.given(CHANGES)
    def test_judged_as_before_or_as_after(self, changes):
        node = Node(classes.Classes(classes.counter()))
        members = {}
        for change in changes:
            before = node.judged()
            members.update(change)
            after = {address: frozenset(
                selector for selector, found in members.items()
                if address in found) for address in ADDRESSES}
            for judged in node.carry_out(node.classes.update(change)):
                for address in ADDRESSES:
                    self.assertIn(judged[address], (
                        before[address],
                        classes.Definition(POD, after[address])
                        if after[address] else None))
            self.assertEqual(
                {address: classes.Definition(POD, found) if found else None
                 for address, found in after.items()}, node.judged())
            self.assertEqual(set(node.rows), set(node.classes.definitions))
            self.assertEqual(node.addresses, node.classes.numbers)
