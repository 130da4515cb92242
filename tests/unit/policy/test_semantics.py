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

"""NetworkPolicy rule by rule: what users count on, one test each."""

from kuryr_cilium.policy import world
from tests import base
from tests.unit.policy import builders

TCP, UDP, SCTP, ICMP, GRE = 6, 17, 132, 1, 47


class TestSemantics(base.TestCase):
    """Pods web and db in default, peer in other; policies select web."""

    def setUp(self):
        super().setUp()
        self.world = world.World()
        self.world.set_namespace(builders.namespace('default'))
        self.world.set_namespace(builders.namespace('other',
                                                    {'team': 'red'}))
        self.web = self.pod('web', labels={'app': 'web'})
        self.db = self.pod('db', labels={'app': 'db'})
        self.peer = self.pod('peer', 'other', {'app': 'db'})

    def pod(self, name, namespace='default', labels=None, **more):
        self.count = getattr(self, 'count', 0) + 1
        more.setdefault('number', self.count)
        obj = builders.pod(name, namespace, labels, **more)
        self.world.set_pod(obj)
        return obj

    def apply(self, name='p', namespace='default', **spec):
        spec.setdefault('podSelector', {'matchLabels': {'app': 'web'}})
        self.world.set_policy('NetworkPolicy',
                              builders.policy(name, spec, namespace))

    def may(self, source, destination, protocol=TCP, port=80):
        return builders.Judge(self.world).allowed(
            source, destination, protocol, port)

    def assertReaches(self, source, destination, *packet):
        self.assertTrue(self.may(source, destination, *packet))

    def assertBlocked(self, source, destination, *packet):
        self.assertFalse(self.may(source, destination, *packet))

    def test_without_policy_all_is_allowed(self):
        self.assertReaches(self.peer, self.web)
        self.assertReaches(None, self.web, GRE, None)
        self.assertReaches(self.web, None, ICMP, 0x800)

    def test_policies_union(self):
        for name, app in (('one', 'db'), ('two', 'cache')):
            self.apply(name, ingress=[{'from': [
                {'podSelector': {'matchLabels': {'app': app}}}]}])
        cache = self.pod('cache', labels={'app': 'cache'})
        self.assertReaches(self.db, self.web)
        self.assertReaches(cache, self.web)
        self.assertBlocked(self.peer, self.web)

    def test_egress_and_ingress_must_both_allow(self):
        self.apply('in', ingress=[{'ports': [{'port': 80}]}])
        self.apply('out', podSelector={'matchLabels': {'app': 'db'}},
                   policyTypes=['Egress'],
                   egress=[{'ports': [{'port': 80}, {'port': 81}]}])
        self.assertReaches(self.db, self.web, TCP, 80)
        self.assertBlocked(self.db, self.web, TCP, 81)

    def test_empty_pod_selector_selects_the_namespace(self):
        for selector in ({}, None):
            self.apply(podSelector=selector)
            self.assertBlocked(self.web, self.db)
            self.assertReaches(self.web, self.peer)

    def test_no_ingress_rules_deny_all(self):
        for rules in (None, []):
            self.apply(policyTypes=['Ingress'], ingress=rules)
            self.assertBlocked(self.db, self.web)
            self.assertBlocked(None, self.web)
            self.assertReaches(self.web, self.db)

    def test_an_empty_rule_allows_all(self):
        # Also when it is not the first.
        closed = {'from': [{'podSelector': {'matchLabels': {'no': 'pod'}}}]}
        for rules in ([{}], [closed, {}]):
            self.apply(ingress=rules)
            self.assertReaches(None, self.web, GRE, None)
            self.assertReaches(self.peer, self.web)

    def test_no_peers_is_any_peer_outside_too(self):
        for peers in (None, []):
            self.apply(ingress=[{'from': peers, 'ports': [{'port': 80}]}])
            self.assertReaches(None, self.web)
            self.assertReaches(self.peer, self.web)
            self.assertBlocked(None, self.web, TCP, 81)

    def test_no_ports_is_every_port_and_protocol(self):
        for ports in (None, []):
            self.apply(ingress=[{'from': [{'podSelector': {}}],
                                 'ports': ports}])
            for packet in ((TCP, 1), (SCTP, 9), (ICMP, 0x800), (GRE, None)):
                self.assertReaches(self.db, self.web, *packet)

    def test_policy_types_default_to_ingress(self):
        self.apply()
        self.assertBlocked(self.db, self.web)
        self.assertReaches(self.web, self.db)

    def test_policy_types_default_to_both_with_egress_rules(self):
        self.apply(egress=[{'ports': [{'port': 53}]}])
        self.assertBlocked(self.db, self.web)
        self.assertBlocked(self.web, self.db, TCP, 80)
        self.assertReaches(self.web, self.db, TCP, 53)

    def test_rules_of_a_type_left_out_have_no_effect(self):
        self.apply(policyTypes=['Egress'], ingress=[], egress=[{}])
        self.assertReaches(self.db, self.web)

    def test_pod_selector_alone_is_the_own_namespace(self):
        self.apply(ingress=[{'from': [
            {'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        self.assertReaches(self.db, self.web)
        self.assertBlocked(self.peer, self.web)

    def test_namespace_selector_alone_is_all_its_pods(self):
        self.apply(ingress=[{'from': [
            {'namespaceSelector': {'matchLabels': {'team': 'red'}}}]}])
        self.assertReaches(self.peer, self.web)
        self.assertBlocked(self.db, self.web)

    def test_both_in_one_peer_are_and_ed(self):
        self.apply(ingress=[{'from': [
            {'namespaceSelector': {'matchLabels': {'team': 'red'}},
             'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        stranger = self.pod('stranger', 'other', {'app': 'x'})
        self.assertReaches(self.peer, self.web)
        self.assertBlocked(stranger, self.web)
        self.assertBlocked(self.db, self.web)

    def test_separate_peers_are_or_ed(self):
        self.apply(ingress=[{'from': [
            {'namespaceSelector': {'matchLabels': {'team': 'red'}}},
            {'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        stranger = self.pod('stranger', 'other', {'app': 'x'})
        self.assertReaches(stranger, self.web)
        self.assertReaches(self.db, self.web)

    def test_and_ed_peers_span_all_namespaces_that_match(self):
        self.world.set_namespace(builders.namespace('third',
                                                    {'team': 'red'}))
        third = self.pod('third', 'third', {'app': 'db'})
        self.apply(ingress=[{'from': [
            {'namespaceSelector': {'matchLabels': {'team': 'red'}},
             'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        self.assertReaches(self.peer, self.web)
        self.assertReaches(third, self.web)

    def test_an_empty_namespace_selector_is_every_namespace(self):
        self.apply(ingress=[{'from': [{'namespaceSelector': {}}]}])
        self.assertReaches(self.peer, self.web)
        self.assertReaches(self.db, self.web)
        self.assertBlocked(None, self.web)

    def test_a_namespace_is_selected_by_its_name(self):
        self.apply(ingress=[{'from': [{'namespaceSelector': {'matchLabels': {
            'kubernetes.io/metadata.name': 'other'}}}]}])
        self.assertReaches(self.peer, self.web)
        self.assertBlocked(self.db, self.web)

    def test_no_protocol_is_tcp(self):
        self.apply(ingress=[{'ports': [{'port': 80}]}])
        self.assertReaches(None, self.web, TCP, 80)
        self.assertBlocked(None, self.web, UDP, 80)

    def test_a_protocol_without_port_is_all_its_ports(self):
        self.apply(ingress=[{'ports': [{'protocol': 'UDP'}]}])
        self.assertReaches(None, self.web, UDP, 1)
        self.assertReaches(None, self.web, UDP, 65535)
        self.assertBlocked(None, self.web, TCP, 1)

    def test_end_port_is_inclusive(self):
        self.apply(ingress=[{'ports': [{'port': 79, 'endPort': 1024}]}])
        for port, reaches in ((78, False), (79, True), (500, True),
                              (1024, True), (1025, False)):
            self.assertEqual(reaches, self.may(None, self.web, TCP, port))

    def test_sctp_and_udp_only_policies_isolate_tcp(self):
        for protocol, number in (('SCTP', SCTP), ('UDP', UDP)):
            self.apply(ingress=[{'ports': [{'protocol': protocol,
                                            'port': 80}]}])
            self.assertReaches(self.db, self.web, number, 80)
            self.assertBlocked(self.db, self.web, TCP, 80)

    def test_icmp_needs_a_rule_without_ports(self):
        self.apply(ingress=[{'ports': [{'protocol': name} for name in
                                       ('TCP', 'UDP', 'SCTP')]}])
        self.assertBlocked(self.db, self.web, ICMP, 0x800)
        self.assertBlocked(self.db, self.web, GRE, None)

    def test_host_network_pods_are_neither_subject_nor_peer(self):
        self.apply(ingress=[{'from': [{'podSelector': {}}]}])
        host = self.pod('host', labels={'app': 'web'}, host_network=True)
        self.assertBlocked(host, self.web)
        self.assertReaches(self.peer, host)

    def test_labels_and_namespace_labels_take_effect(self):
        self.apply(ingress=[{'from': [
            {'namespaceSelector': {'matchLabels': {'team': 'blue'}}},
            {'podSelector': {'matchLabels': {'app': 'friend'}}}]}])
        self.assertBlocked(self.peer, self.web)
        self.world.set_namespace(builders.namespace('other',
                                                    {'team': 'blue'}))
        self.assertReaches(self.peer, self.web)
        self.world.set_namespace(builders.namespace('other'))
        self.assertBlocked(self.peer, self.web)
        self.assertBlocked(self.db, self.web)
        self.db['metadata']['labels'] = {'app': 'friend'}
        self.world.set_pod(self.db)
        self.assertReaches(self.db, self.web)

    def test_policy_updates_and_deletes_take_effect(self):
        self.apply()
        self.assertBlocked(self.db, self.web)
        self.apply(ingress=[{}])
        self.assertReaches(self.db, self.web)
        self.apply(podSelector={'matchLabels': {'app': 'db'}})
        self.assertReaches(self.db, self.web)
        self.assertBlocked(self.web, self.db)
        self.world.delete_policy('policy/default/p')
        self.assertReaches(self.web, self.db)

    def test_a_pod_is_isolated_by_policies_older_than_it(self):
        self.apply(podSelector={})
        late = self.pod('late')
        self.assertBlocked(self.db, late)

    def test_finished_pods_stop_being_peers_at_once(self):
        self.apply(ingress=[{'from': [
            {'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        for phase in ('Succeeded', 'Failed'):
            self.db['status']['phase'] = 'Running'
            self.world.set_pod(self.db)
            self.assertReaches(self.db, self.web)
            self.db['status']['phase'] = phase
            self.world.set_pod(self.db)
            self.assertBlocked(self.db, self.web)

    def test_terminating_pods_stay_selected_while_they_run(self):
        self.apply(ingress=[{'from': [
            {'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        for pod in (self.db, self.web):
            pod['metadata']['deletionTimestamp'] = '2025-01-01T00:00:00Z'
            self.world.set_pod(pod)
        self.assertReaches(self.db, self.web)
        self.assertBlocked(self.peer, self.web)

    def test_a_late_delete_leaves_the_new_owner_of_an_address(self):
        self.apply(ingress=[{'from': [
            {'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        new = self.pod('new', labels={'app': 'db'}, number=2)
        self.world.delete_pod(self.db['metadata']['uid'])
        self.assertReaches(new, self.web)

    def test_the_new_owner_of_an_address_is_no_peer_for_the_old_one(self):
        self.apply(ingress=[{'from': [
            {'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        new = self.pod('new', labels={'app': 'x'}, number=2,
                       created='2025-01-01T00:00:00Z')
        self.assertBlocked(new, self.web)

    def test_a_pod_of_the_same_name_is_another_pod(self):
        self.apply(ingress=[{'from': [
            {'podSelector': {'matchLabels': {'app': 'db'}}}]}])
        again = self.pod('db', labels={'app': 'x'}, uid='second')
        self.world.delete_pod(self.db['metadata']['uid'])
        self.assertBlocked(again, self.web)
        self.assertBlocked(self.db, self.web)

    def test_a_malformed_policy_isolates_and_says_so(self):
        self.apply('open', ingress=[{'ports': [{'port': 443}]}])
        self.apply('odd', ingress=[
            {'ports': [{'port': 80}]},
            {'from': [{'ipBlock': {'cidr': '10.0.0.0'}}]}])
        self.assertBlocked(self.db, self.web, TCP, 80)
        self.assertReaches(self.db, self.web, TCP, 443)
        problem, = self.world.problems()['policy/default/odd']
        self.assertEqual('spec.ingress[1].from[0].ipBlock.cidr', problem.field)
        self.world.delete_policy('policy/default/odd')
        self.assertEqual({}, self.world.problems())
