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

import pathlib

import fixtures
import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.agent import view
from kuryr_cilium.agent import viewfile
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects
from tests import base
from tests.unit.agent import samples

SELECTORS = [samples.selector(f's{i}', f'10.0.0.{i}') for i in range(3)]
RULESETS = [samples.ruleset(f'r{i}', *(s.id for s in SELECTORS[:i + 1]))
            for i in range(3)]
ENDPOINTS = [samples.endpoint(f'u{i}', ingress=RULESETS[i].id,
                              egress=(model.ALLOW_ALL, model.DENY_ALL,
                                      'r0')[i]) for i in range(3)]
# The members of the last one come in parts.
_LAST = SELECTORS.pop()
PARTS = [model.Members(_LAST.id, number, members)
         for number, members in enumerate(((), _LAST.members))]
EVERYTHING = [*SELECTORS, *RULESETS, *ENDPOINTS, *PARTS, model.Selector(
    _LAST.id, _LAST.definition, parts=len(PARTS))]
SELECTORS.append(_LAST)
# With the keys of others.
OTHERS = [
    samples.selector('s0', '10.0.1.0'), samples.ruleset('r1', 's1'),
    samples.endpoint('u1', ingress='r2', egress='r0'),
    samples.selector(_LAST.id, '10.0.2.0'),
    model.Selector('s1', 's1', (), model.Block('0.0.0.0/0', outside=True)),
    model.Members(_LAST.id, 0, SELECTORS[0].members)]


def held(*objs):
    return view.merge({}, {objects.key(o): o for o in objs},
                      {objects.key(o): objects.digest(o) for o in objs}, ())


class TestView(base.TestCase):

    def test_a_whole_view_is_taken_as_it_is(self):
        assembled = view.assemble(7, held(*EVERYTHING))
        self.assertEqual((), assembled.problems)
        self.assertEqual(model.View(
            7, True, {e.uid: e for e in ENDPOINTS},
            {r.id: r for r in RULESETS}, {s.id: s for s in SELECTORS}),
            assembled.view)

    def test_a_selector_in_parts_is_made_anew_if_it_is_different(self):
        before = held(*EVERYTHING)
        assembler = view.Assembler()
        first = assembler.assemble(1, before).view
        name = PARTS[0].selector
        second = assembler.assemble(1, dict(before)).view
        self.assertIs(first.selectors[name], second.selectors[name])
        part = model.Members(name, 0, (model.Member('u', ('10.0.0.9',)),))
        after = {**before, **held(part)}
        third = assembler.assemble(1, after).view
        self.assertEqual(
            {*part.members, *PARTS[1].members},
            set(third.selectors[name].members))

    @hypothesis.given(st.lists(st.sets(st.sampled_from(
        [*EVERYTHING, *OTHERS])), min_size=2, max_size=5))
    def test_one_after_another_is_as_if_from_nothing(self, history):
        assembler = view.Assembler()
        for objs in history:
            # Of two with one key one is held.
            now = held(*sorted(objs, key=repr))
            found = assembler.assemble(1, now)
            fresh = view.assemble(1, now)
            self.assertEqual(fresh.view, found.view)
            self.assertEqual(sorted(fresh.problems), sorted(found.problems))

    @hypothesis.given(st.sets(st.sampled_from(EVERYTHING)))
    def test_what_is_missing_denies(self, objs):
        assembled = view.assemble(1, held(*objs))
        whole = view.assemble(1, held(*EVERYTHING)).view
        made = assembled.view
        for ruleset in made.rulesets.values():
            for group in ruleset.groups:
                self.assertLessEqual(group.peers, made.selectors.keys())
        for endpoint in made.endpoints.values():
            wanted = whole.endpoints[endpoint.uid]
            for direction in ('ingress', 'egress'):
                got = getattr(endpoint, direction)
                if got != getattr(wanted, direction):
                    self.assertEqual(model.DENY_ALL, got)
                elif got not in (model.ALLOW_ALL, model.DENY_ALL):
                    self.assertIn(got, made.rulesets)
        lost = any(o not in objs for o in EVERYTHING
                   if not isinstance(o, model.Endpoint))
        if not lost:
            self.assertEqual((), assembled.problems)

    def test_entities_need_what_tells_them(self):
        cluster, nodes = (samples.selector(name, '10.0.0.1')
                          for name in ('entity:cluster',
                                       'entity:remote-node'))
        for name, sent, there in (
                ('entity:host', (), True),
                ('entity:remote-node', (), False),
                ('entity:remote-node', (nodes,), True),
                ('entity:world', (nodes,), False),
                ('entity:world', (cluster, nodes), True),
                ('entity:cluster', (cluster,), False),
                ('entity:cluster', (cluster, nodes), True)):
            assembled = view.assemble(1, held(
                samples.ruleset('r9', name), *sent))
            self.assertEqual(there, 'r9' in assembled.view.rulesets, name)

    def test_blocks_outside_need_what_is_inside(self):
        block = model.Selector('b', 'b', (), model.Block(
            '0.0.0.0/0', outside=True))
        inside = [samples.selector(name, '10.0.0.1') for name in (
            'entity:cluster', 'entity:remote-node')]
        for sent in ((), inside[:1], inside[1:], inside):
            assembled = view.assemble(1, held(
                samples.ruleset('r9', 'b'), block, *sent))
            self.assertEqual(len(sent) == 2,
                             'r9' in assembled.view.rulesets)

    def test_merge_takes_out_and_puts_in(self):
        before = held(*EVERYTHING)
        other = samples.selector('s0', '10.9.9.9')
        after = view.merge(before, {'selector:s0': other},
                           {'selector:s0': 'd'},
                           ['endpoint:u0', 'endpoint:unknown'])
        self.assertEqual(view.Held(other, 'd'), after['selector:s0'])
        self.assertNotIn('endpoint:u0', after)
        self.assertIn('endpoint:u0', before)


class TestViewFile(base.TestCase):

    def setUp(self):
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.path = folder / 'state' / 'view.json'
        self.file = viewfile.ViewFile(self.path)

    def test_comes_back(self):
        self.assertIsNone(self.file.load())
        before = held(*EVERYTHING)
        before['selector:s0'] = view.Held(SELECTORS[0], 'of a newer release')
        self.file.save(5, before)
        self.assertEqual(viewfile.Saved(5, before), self.file.load())
        after = {**before, **held(*OTHERS)}
        del after['endpoint:u0']
        self.file.save(6, after)
        self.assertEqual(viewfile.Saved(6, after), self.file.load())

    def test_corrupt_is_set_aside(self):
        self.file.save(5, held(*EVERYTHING))
        whole = self.path.read_text()
        for text in (whole[:-9], '', '[]', '{"version": 9}',
                     whole.replace('"1.0"', '"3.0"'),
                     whole.replace('"epoch":5', '"epoch":null')):
            self.path.write_text(text)
            self.assertIsNone(self.file.load())
            self.assertFalse(self.path.exists())
            self.assertEqual(text, self.path.with_name(
                'view.json.corrupt').read_text())
