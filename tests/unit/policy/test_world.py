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

from kuryr_cilium.policy import model
from kuryr_cilium.policy import world
from kuryr_cilium import vif
from tests import base
from tests.unit.policy import builders

SELECTOR = '{"namespace":"default","pods":[["app","In",["db"]]]}'
FROM_DB = {'podSelector': {'matchLabels': {'app': 'web'}}, 'ingress': [
    {'from': [{'podSelector': {'matchLabels': {'app': 'db'}}}]}]}


class TestWorld(base.TestCase):

    def setUp(self):
        super().setUp()
        self.world = world.World()
        self.web = builders.pod('web', labels={'app': 'web'}, number=1)
        self.db = builders.pod('db', labels={'app': 'db'}, number=2,
                               node='node-b')

    def view(self, kind, host='node-a'):
        return {key: obj for key, obj in self.world.view(host).items()
                if isinstance(obj, kind)}

    def members(self):
        selector, = self.view(model.Selector).values()
        self.assertEqual(SELECTOR, selector.definition)
        return [member.uid for member in selector.members]

    def test_a_view_is_what_the_node_needs(self):
        self.world.set_pod(self.web)
        self.world.set_pod(self.db)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        endpoint, = self.view(model.Endpoint).values()
        ruleset, = self.view(model.RuleSet).values()
        selector, = self.view(model.Selector).values()
        self.assertEqual(vif.facts(self.web['metadata']['annotations'][
            vif.ANNOTATION]).addresses, endpoint.addresses)
        self.assertEqual((ruleset.id, model.ALLOW_ALL),
                         (endpoint.ingress, endpoint.egress))
        self.assertEqual({'endpoint:default/web', 'ruleset:' + ruleset.id,
                          'selector:' + selector.id},
                         set(self.world.view('node-a')))
        self.assertEqual((model.Member('default/db', (
            '10.0.0.2', 'fd00::3')),), selector.members)
        self.assertEqual({'endpoint:default/db'},
                         set(self.world.view('node-b')))
        self.assertEqual({}, self.world.view('node-c'))
        self.assertEqual({'node-a', 'node-b'}, self.world.hosts())

    def test_a_view_stays_the_same_object(self):
        self.world.set_pod(self.web)
        view = self.world.view('node-a')
        self.world.set_pod(self.db)
        self.assertIs(view, self.world.view('node-a'))
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        self.assertIsNot(view, self.world.view('node-a'))
        self.assertEqual({'endpoint:default/web'}, set(view))

    def test_changes(self):
        changes = self.world.set_pod(self.web)
        self.assertEqual({'default/web': 'node-a'}, changes.endpoints)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        changes = self.world.set_pod(self.db)
        self.assertEqual({'default/db': 'node-b'}, changes.endpoints)
        self.assertEqual({'node-a', 'node-b'}, changes.hosts)
        self.assertEqual(1, len(changes.selectors))
        self.assertFalse(self.world.set_pod(self.db))
        self.db['status']['podIP'] = '10.0.0.2'
        self.assertFalse(self.world.set_pod(self.db))

    def test_labels_that_nobody_selects_cost_nothing(self):
        self.world.set_pod(self.web)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        self.web['metadata']['labels']['pod-template-hash'] = 'abc'
        self.assertFalse(self.world.set_pod(self.web))

    def test_no_annotation_no_endpoint_no_peer(self):
        annotations = self.db['metadata'].pop('annotations')
        self.world.set_pod(self.web)
        self.world.set_pod(self.db)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        self.assertEqual([], self.members())
        self.assertEqual({}, self.world.view('node-b'))
        self.db['metadata']['annotations'] = annotations
        self.world.set_pod(self.db)
        self.assertEqual(['default/db'], self.members())

    def test_an_unreadable_annotation_is_a_problem(self):
        self.web['metadata']['annotations'][vif.ANNOTATION] = '{}'
        self.world.set_pod(self.web)
        self.assertEqual(['default/web'], list(self.world.pod_problems()))
        self.assertEqual(frozenset(), self.world.hosts())
        self.world.delete_pod('default/web')
        self.assertEqual({}, self.world.pod_problems())

    def test_fastpath(self):
        self.world.set_pod(self.web)
        endpoint = self.world.view('node-a')['endpoint:default/web']
        self.assertFalse(endpoint.fastpath)
        changes = self.world.set_fastpath({endpoint.vif_id, 'other'})
        self.assertEqual({'default/web': 'node-a'}, changes.endpoints)
        endpoint = self.world.view('node-a')['endpoint:default/web']
        self.assertTrue(endpoint.fastpath)
        self.assertFalse(self.world.set_fastpath({endpoint.vif_id}))
        self.assertTrue(self.world.set_fastpath(()))

    def test_equal_content_is_one_ruleset_with_all_names(self):
        for number, namespace in enumerate(('one', 'two')):
            self.world.set_pod(builders.pod('p', namespace, number=number))
            self.world.set_policy('NetworkPolicy', builders.policy(
                'p', {'ingress': [{'ports': [{'port': 80}]}]}, namespace))
        ruleset, = self.view(model.RuleSet).values()
        self.assertEqual(
            (('NetworkPolicy/one/p ingress[0]',
              'NetworkPolicy/two/p ingress[0]'),), ruleset.names)
        changes = self.world.delete_policy('policy/two/p')
        self.assertEqual({ruleset.id}, changes.rulesets)
        ruleset, = self.view(model.RuleSet).values()
        self.assertEqual((('NetworkPolicy/one/p ingress[0]',),),
                         ruleset.names)

    def test_the_address_of_a_node_is_no_pods(self):
        self.world.set_pod(self.web)
        self.world.set_pod(self.db)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        self.world.set_node(builders.node('node-c', '10.0.0.2', 'fd00::3'))
        self.assertEqual([], self.members())
        self.world.delete_node('node-c')
        self.assertEqual(['default/db'], self.members())

    def test_an_address_has_the_later_owner(self):
        self.world.set_pod(self.web)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        old, new = (builders.pod(name, labels={'app': 'db'}, number=7,
                                 created='2025-01-01T00:00:0%dZ' % second)
                    for second, name in ((1, 'old'), (2, 'new')))
        for order in ((old, new), (new, old)):
            for pod in order:
                self.world.set_pod(pod)
            self.assertEqual(['default/new'], self.members())
            self.world.delete_pod('default/old')
            self.assertEqual(['default/new'], self.members())
            self.world.delete_pod('default/new')
            self.assertEqual([], self.members())

    def test_an_address_leaves_a_pod_that_is_being_deleted(self):
        self.world.set_pod(self.web)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        second = '2025-01-01T00:00:01Z'
        self.world.set_pod(builders.pod('y', labels={'app': 'db'}, number=7,
                                        created=second))
        going = builders.pod('z', labels={'app': 'db'}, number=7,
                             created=second)
        self.world.set_pod(going)
        self.assertEqual(['default/z'], self.members())
        going['metadata']['deletionTimestamp'] = second
        self.world.set_pod(going)
        self.assertEqual(['default/y'], self.members())

    def test_deletes_are_idempotent(self):
        for call, name in ((self.world.delete_pod, 'x'),
                           (self.world.delete_policy, 'x'),
                           (self.world.delete_namespace, 'x'),
                           (self.world.delete_node, 'x')):
            self.assertFalse(call(name))

    def test_nothing_is_left_when_all_is_deleted(self):
        self.world.set_pod(self.web)
        self.world.set_pod(self.db)
        self.world.set_policy('NetworkPolicy', builders.policy('p', FROM_DB))
        self.world.delete_pod('default/web')
        self.world.delete_policy('policy/default/p')
        self.world.delete_pod('default/db')
        self.assertEqual(frozenset(), self.world.hosts())
        self.assertEqual({}, self.world.view('node-a'))
