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

from kuryr_cilium.datapath.bpf import peers
from kuryr_cilium.policy import entities
from kuryr_cilium.policy import model
from tests import base

NAMES = ('a', 'b', entities.CLUSTER)
#: The same objects come again, as those of parts do that are not sent anew.
MEMBERS = [model.Member('u%d' % number, addresses, entity)
           for number, (addresses, entity) in enumerate((
               (('10.0.0.1',), entities.Entity.POD),
               (('10.0.0.2', 'fd00::2'), entities.Entity.POD),
               (('10.0.0.3',), entities.Entity.REMOTE_NODE),
               # What others have too, in another form, and twice.
               (('10.0.0.1',), entities.Entity.WORLD),
               (('10.0.0.4', 'fd00:0::4'), entities.Entity.POD),
               (('10.0.0.5', '10.0.0.5'), entities.Entity.WORLD),
               (('none',), entities.Entity.POD)))]
BLOCKS = (None, model.Block('10.0.0.0/8'), model.Block('10.0.0.1/8'),
          model.Block('0.0.0.0/0', outside=True))
VIEWS = st.dictionaries(st.sampled_from(NAMES), st.tuples(
    st.lists(st.sampled_from(MEMBERS), unique=True, max_size=6),
    st.sampled_from(BLOCKS)))


def make(view):
    return {name: model.Selector(name, name, tuple(members), block)
            for name, (members, block) in view.items()}


class TestSelectors(base.TestCase):

    @hypothesis.settings(deadline=None, max_examples=300)
    @hypothesis.given(st.lists(VIEWS, min_size=2, max_size=5))
    def test_one_after_another_says_what_a_fresh_one_says(self, history):
        found = peers.Selectors()
        for view in history:
            before = dict(found.peers)
            selectors = make(view)
            found.take(selectors, {})
            fresh = peers.Selectors()
            fresh.take(selectors, {})
            self.assertEqual(fresh.peers, found.peers)
            self.assertEqual(fresh.outside, found.outside)
            self.assertEqual(fresh.broken, found.broken)
            for name, (former, touched) in found.changes.items():
                self.assertIs(before[name], former)
                self.assertLessEqual(
                    self.differences(former, found.peers[name]), touched)

    def differences(self, one, other):
        told = {address for address in one.told.keys() | other.told.keys()
                if one.told.get(address) != other.told.get(address)}
        return told | one.addresses ^ other.addresses

    def test_another_block_is_broken_until_the_former_is_forgotten(self):
        found = peers.Selectors()
        one, other = (make({'a': ((), block)}) for block in (
            BLOCKS[1], BLOCKS[3]))
        found.take(one, {})
        former = dict(found.peers)
        found.take(other, former)
        self.assertEqual({'a'}, found.broken)
        found.take(other, former)
        self.assertEqual({'a'}, found.broken)
        found.take(other, {})
        self.assertEqual(set(), found.broken)

    @hypothesis.settings(deadline=None, max_examples=300)
    @hypothesis.given(st.lists(VIEWS, min_size=2, max_size=5), st.sets(
        st.sampled_from(('10.0.0.1', '10.0.0.3'))))
    def test_told_is_what_a_fresh_one_tells(self, history, nodes):
        selectors, told = peers.Selectors(), peers.Told()
        known, before = {}, {}
        for view in history:
            selectors.take(make(view), {})
            now = selectors.peers
            changed = {name: now[name].told if name in now else {}
                       for name in now.keys() | before.keys()
                       if now.get(name) is not before.get(name)}
            places = {name: touched for name, (_, touched)
                      in selectors.changes.items()}
            for address, entity in told.update(
                    changed, nodes, places).items():
                known[address] = entity
            before = dict(now)
            fresh = peers.Told().update({
                name: found.told for name, found in now.items()}, nodes)
            self.assertEqual(fresh, {
                address: entity for address, entity in known.items()
                if entity is not None})
