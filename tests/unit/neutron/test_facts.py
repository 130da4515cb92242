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

import itertools

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.neutron import facts
from tests import base

ALL = [{'direction': direction, 'ethertype': family, 'protocol': None,
        'remote_ip_prefix': None, 'remote_group_id': None}
       for direction, family in itertools.product(
           ('ingress', 'egress'), ('IPv4', 'IPv6'))]
OPEN = {'id': 'p', 'admin_state_up': True, 'port_security_enabled': True,
        'security_groups': ['g'], 'qos_policy_id': None,
        'qos_network_policy_id': None}


class AllowsEverythingTestCase(base.TestCase):

    def test_all(self):
        self.assertTrue(facts.allows_everything(ALL))
        self.assertTrue(facts.allows_everything(
            ALL + [dict(ALL[0], protocol='tcp')]))
        self.assertTrue(facts.allows_everything([
            dict(rule, remote_ip_prefix={
                'IPv4': '0.0.0.0/0', 'IPv6': '::/0'}[rule['ethertype']])
            for rule in ALL]))

    @hypothesis.given(st.integers(0, 3))
    def test_one_missing(self, missing):
        self.assertFalse(facts.allows_everything(
            ALL[:missing] + ALL[missing + 1:]))

    @hypothesis.given(st.integers(0, 3), st.sampled_from([
        ('protocol', 'tcp'), ('protocol', 0), ('port_range_min', 0),
        ('port_range_max', 80), ('remote_group_id', 'g'),
        ('remote_address_group_id', 'a'), ('remote_ip_prefix', '10.0.0.0/8'),
        ('remote_ip_prefix', '0.0.0.0/1'), ('ethertype', 'ARP'),
        ('direction', None)]))
    def test_one_restricted(self, number, change):
        rules = [dict(rule) for rule in ALL]
        rules[number][change[0]] = change[1]
        self.assertFalse(facts.allows_everything(rules))

    def test_none(self):
        self.assertFalse(facts.allows_everything([]))


class IsUnrestrictedTestCase(base.TestCase):

    def test_open(self):
        self.assertTrue(facts.is_unrestricted(OPEN, {'g'}))
        self.assertTrue(facts.is_unrestricted(
            dict(OPEN, port_security_enabled=False), set()))

    def test_restricted(self):
        for change in ({'admin_state_up': False}, {'admin_state_up': None},
                       {'qos_policy_id': 'q'},
                       {'qos_network_policy_id': 'q'},
                       {'security_groups': []}, {'security_groups': None},
                       {'security_groups': ['other']}):
            self.assertFalse(facts.is_unrestricted(
                dict(OPEN, **change), {'g'}), change)
        self.assertFalse(facts.is_unrestricted(
            dict(OPEN, port_security_enabled=False, qos_policy_id='q'),
            {'g'}))

    @hypothesis.given(st.sets(st.sampled_from(sorted(OPEN))))
    def test_what_is_not_known_is_restricted(self, unknown):
        port = {field: value for field, value in OPEN.items()
                if field not in unknown}
        self.assertEqual(
            not unknown & {'admin_state_up', 'security_groups'},
            facts.is_unrestricted(port, {'g'}))
