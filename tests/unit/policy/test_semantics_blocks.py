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

"""Rows of the semantics table about blocks, and what Cilium does else."""

from kuryr_cilium.policy import kinds
from tests import base
from tests.unit.policy import builders
from tests.unit.policy import reading
from tests.unit.policy.reading import Peer

OWN = {'name': 'default'}


class TestBlocks(base.TestCase):

    def parse(self, spec, kind='NetworkPolicy'):
        policy, = kinds.parse(kind, builders.policy('p', spec))
        self.assertEqual((), policy.problems)
        return policy

    def blocks(self, *blocks):
        return [self.parse({'ingress': [{'from': [
            {'ipBlock': {'cidr': cidr, 'except': list(excepts)}}
            for cidr, *excepts in blocks]}]})]

    def cilium(self, **spec):
        return self.parse({'endpointSelector': {}, **spec},
                          'CiliumNetworkPolicy')

    def test_7_an_except_is_of_its_own_block_only(self):
        policies = self.blocks(('10.0.0.0/8', '10.1.0.0/16'),
                               ('10.1.2.0/24',))
        for address, want in (('10.2.0.1', True), ('10.1.0.1', False),
                              ('10.1.2.1', True)):
            self.assertEqual(want, reading.allows(policies, Peer(address)))
        again = self.blocks(('10.1.0.0/16',))
        self.assertTrue(reading.allows(policies + again, Peer('10.1.0.1')))

    def test_8_blocks_match_pods_and_nodes(self):
        policies = self.blocks(('10.0.0.0/8', '10.1.0.0/16'))
        for entity in (reading.POD, reading.REMOTE_NODE, reading.WORLD):
            for address, want in (('10.0.0.1', True), ('10.1.0.1', False)):
                self.assertEqual(want, reading.allows(
                    policies, Peer(address, entity, OWN)))

    def test_22_a_block_is_of_its_own_family(self):
        for cidr, four, six in (('0.0.0.0/0', True, False),
                                ('::/0', False, True)):
            policies = self.blocks((cidr,))
            self.assertEqual(four, reading.allows(policies,
                                                  Peer('192.0.2.1')))
            self.assertEqual(six, reading.allows(policies,
                                                 Peer('2001:db8::1')))

    def test_ciliums_cidrs_match_neither_pods_nor_nodes(self):
        policies = [self.cilium(ingress=[{'fromCIDR': ['0.0.0.0/0']}])]
        for entity, want in ((reading.POD, False),
                             (reading.REMOTE_NODE, False),
                             (reading.WORLD, True)):
            self.assertEqual(want, reading.allows(
                policies, Peer('10.0.0.1', entity, OWN)))

    def test_what_cilium_denies_no_policy_allows(self):
        policies = [
            self.parse({'ingress': [{}]}),
            self.cilium(ingress=[{'fromEntities': ['all']}]),
            self.cilium(ingressDeny=[{'fromEndpoints': [
                {'matchLabels': {'app': 'bad'}}], 'toPorts': [
                    {'ports': [{'port': '80'}]}]}])]
        for app, port, want in (('bad', 80, False), ('bad', 81, True),
                                ('good', 80, True)):
            self.assertEqual(want, reading.allows(
                policies, Peer('10.0.0.1', reading.POD, OWN, app=app), port))

    def test_an_icmp_type_is_any_code_of_it(self):
        policies = [self.cilium(ingress=[{'icmps': [
            {'fields': [{'type': 'EchoRequest'}]}]}])]
        for port, want in ((0x800, True), (0x8ff, True), (0x7ff, False),
                           (0x900, False)):
            self.assertEqual(want, reading.allows(
                policies, Peer('10.0.0.1'), port, 1))
        self.assertFalse(reading.allows(policies, Peer('10.0.0.1'), 80))

    def test_layer_3_alone_is_every_protocol(self):
        policies = [self.cilium(ingress=[{'fromEndpoints': [{}]}])]
        peer = Peer('10.0.0.1', reading.POD, OWN)
        for protocol, port in ((6, 1), (17, 65535), (1, 0x800), (47, None)):
            self.assertTrue(reading.allows(policies, peer, port, protocol))
