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

"""Selectors in parts."""

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.policy import members
from kuryr_cilium.policy import model
from tests import base

STEPS = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80)


def member(number, address='10.0.0.1'):
    return model.Member('uid-%d' % number, (address,))


class TestMembers(base.TestCase):

    def held(self, numbers=()):
        found = members.Members()
        found.hold('s', 'definition')
        for number in numbers:
            found.put('s', 'uid-%d' % number, member(number))
        return found

    def pieces(self, found):
        return {key: found.piece(key) for key in found.keys('s')}

    @hypothesis.given(STEPS)
    def test_every_step_says_what_is_different(self, steps):
        self.patch(members, 'PART_MEMBERS', 3)
        found, kept = self.held(), set()
        before = self.pieces(found)
        for number, there in steps:
            (kept.add if there else kept.discard)(number)
            keys = found.put('s', 'uid-%d' % number,
                             member(number) if there else None)
            after = self.pieces(found)
            self.assertEqual(
                {key for key in before.keys() | after.keys()
                 if before.get(key) != after.get(key)}, keys)
            for key in keys - after.keys():
                self.assertIsNone(found.piece(key))
            before = after
        everybody = tuple(sorted(map(member, kept)))
        self.assertEqual(everybody, found.selector('s').members)
        self.assertEqual(0, found.selector('s').parts)
        # What it is cut into follows from the members alone.
        self.assertEqual(before, self.pieces(self.held(sorted(kept))))
        self.assertEqual(
            sorted(everybody), sorted(
                item for piece in before.values()
                for item in piece.members))
        self.assertEqual(len(before) - 1, before['selector:s'].parts)

    def test_one_more_of_many_touches_few(self):
        found = self.held(range(10000))
        self.assertEqual(10000 // members.PART_MEMBERS,
                         found.piece('selector:s').parts)
        sizes = [len(piece.members) for key, piece
                 in self.pieces(found).items() if key.startswith('members:')]
        self.assertLess(max(sizes), 4 * members.PART_MEMBERS)
        self.assertEqual(1, len(found.put(
            's', 'uid-7', member(7, '10.0.0.2'))))
        self.assertEqual(1, len(found.put('s', 'more', member(1))))

    def test_what_is_not_there(self):
        found = self.held()
        self.assertNotIn('t', found)
        for key in ('selector:t', 'members:t/0', 'members:s/0'):
            self.assertIsNone(found.piece(key))
        self.assertEqual(set(), found.put('s', 'uid-1', None))
        found.drop('s')
        self.assertIsNone(found.piece('selector:s'))
