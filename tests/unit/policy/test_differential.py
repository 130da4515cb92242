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

"""Any order of events leads to the same world."""

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.policy import world
from tests import base
from tests.unit.policy import strategies

SETTINGS = hypothesis.settings(
    deadline=None, max_examples=60, derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck))


def fill(events):
    """A world that has seen these (method, argument, ...) calls."""
    found = world.World()
    for method, *arguments in events:
        getattr(found, method)(*arguments)
    return found


def listed(namespaces, pods, policies):
    """The calls that list a cluster."""
    return ([('set_namespace', obj) for obj in namespaces] +
            [('set_pod', obj) for obj in pods] +
            [('set_policy', 'NetworkPolicy', obj) for obj in policies])


def content(found):
    return {host: dict(found.view(host)) for host in found.hosts()}


class TestDifferential(base.TestCase):

    @SETTINGS
    @hypothesis.given(strategies.clusters(), strategies.clusters(), st.data())
    def test_any_way_leads_to_the_same_world(self, first, last, data):
        # From one cluster to the other by changes in any order, what the
        # last one lacks deleted, some events twice.
        kept = [{obj['metadata'].get('uid') for obj in objects}
                for objects in last]
        events = listed(*last) + [
            ('delete_pod', obj['metadata']['uid']) for obj in first[1]
            if obj['metadata']['uid'] not in kept[1]] + [
            ('delete_policy', obj['metadata']['uid']) for obj in first[2]
            if obj['metadata']['uid'] not in kept[2]]
        events += data.draw(st.lists(st.sampled_from(events), max_size=3))
        found = fill(listed(*first))
        before = content(found)
        for method, *arguments in data.draw(st.permutations(events)):
            changes = getattr(found, method)(*arguments)
            after = content(found)
            self._check(changes, before, after)
            before = after
        self.assertEqual(content(fill(listed(*last))), before)

    def _check(self, changes, before, after):
        different = {host for host in before.keys() | after.keys()
                     if before.get(host, {}) != after.get(host, {})}
        self.assertEqual(different, changes.hosts)
        keys = {key for host in different
                for key in (before.get(host, {}).keys() |
                            after.get(host, {}).keys())
                if before.get(host, {}).get(key) !=
                after.get(host, {}).get(key)}
        self.assertEqual(
            {key.partition(':')[2] for key in keys
             if key.startswith('endpoint:')}, set(changes.endpoints))
        # A selector or ruleset may also enter the view of a node that has
        # a new endpoint: no content changes then.
        present = {key for view in before.values() for key in view} & {
            key for view in after.values() for key in view}
        changed = {key.partition(':')[2] for key in keys & present
                   if key.startswith('selector:') and any(
                       key in before.get(host, {}) and
                       key in after.get(host, {}) and
                       before[host][key] != after[host][key]
                       for host in different)}
        self.assertLessEqual(changed, changes.selectors)
