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

import ipaddress

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium import exceptions
from kuryr_cilium.neutron import vifs
from kuryr_cilium import vif
from tests import base

NETWORK = {'id': '5c1c2f70-94c5-4a0f-bb0c-2a3f4c5d6e7f', 'name': 'pods',
           'mtu': 1442}
PORT = {
    'id': 'b0a8c5d2-7a3e-4f6f-9a51-0d6a0c7f1a11', 'status': 'DOWN',
    'mac_address': 'FA:16:3E:00:00:01', 'binding:host_id': 'node-a',
    'binding:vif_type': 'ovs', 'binding:vif_details': {
        'port_filter': True, 'bridge_name': 'br-pods',
        'datapath_type': 'netdev'},
    'fixed_ips': [{'subnet_id': 's4', 'ip_address': '10.99.0.5'},
                  {'subnet_id': 's6', 'ip_address': 'fd99::5'}]}
SUBNETS = {
    's4': {'cidr': '10.99.0.0/16', 'gateway_ip': '10.99.0.1',
           'dns_nameservers': ['10.99.0.2'],
           'host_routes': [{'destination': '192.0.2.0/24',
                            'nexthop': '10.99.0.9'}]},
    's6': {'cidr': 'fd99::/64', 'gateway_ip': None, 'dns_nameservers': [],
           'host_routes': []}}


class MakeTestCase(base.TestCase):

    def test_all_of_it(self):
        made = vifs.make(PORT, NETWORK, SUBNETS)
        self.assertEqual(
            ('fa:16:3e:00:00:01', 'br-pods', 'tapb0a8c5d2-7a', 'netdev',
             True, 1442),
            (made.address, made.bridge_name, made.vif_name,
             made.port_profile.datapath_type, made.port_profile.create_port,
             made.network.mtu))
        four, six = made.network.subnets.objects
        self.assertEqual('10.99.0.1', str(four.gateway))
        self.assertEqual('192.0.2.0/24', str(four.routes.objects[0].cidr))
        self.assertFalse(six.obj_attr_is_set('gateway'))
        self.assertEqual(vif.facts(vif.dumps(made)), vif.Facts(
            PORT['id'], 'fa:16:3e:00:00:01', NETWORK['id'],
            ('10.99.0.5', 'fd99::5')))

    def test_details_that_neutron_leaves_out(self):
        made = vifs.make(dict(PORT, **{'binding:vif_details': {}}), NETWORK,
                         SUBNETS)
        self.assertEqual(('br-int', 'system'), (
            made.bridge_name, made.port_profile.datapath_type))

    def test_refused(self):
        for change, why in (
                ({'binding:vif_type': 'unbound'}, 'not bound'),
                ({'binding:vif_type': 'vhostuser'}, 'DPDK'),
                ({'binding:vif_type': 'hw_veb'}, 'only ovs'),
                ({'binding:vif_details': {'ovs_hybrid_plug': True}},
                 'firewall_driver'),
                ({'fixed_ips': []}, 'no address')):
            error = self.assertRaises(
                exceptions.PortNotSupported, vifs.make,
                dict(PORT, **change), NETWORK, SUBNETS)
            self.assertIn(why, str(error))
            self.assertIn('node-a', str(error))

    @hypothesis.given(st.lists(st.tuples(
        st.sampled_from(['s4', 's6']), st.integers(2, 250)), min_size=1,
        max_size=6, unique=True))
    def test_each_address_is_in_its_subnet(self, found):
        fixed_ips = [{'subnet_id': subnet, 'ip_address': str(
            ipaddress.ip_network(SUBNETS[subnet]['cidr'])[number])}
            for subnet, number in found]
        made = vifs.make(dict(PORT, fixed_ips=fixed_ips), NETWORK, SUBNETS)
        self.assertEqual(
            {fixed_ip['ip_address'] for fixed_ip in fixed_ips},
            set(vif.addresses(made)))
        self.assertEqual(len({subnet for subnet, _number in found}),
                         len(made.network.subnets.objects))
        for subnet in made.network.subnets.objects:
            for fixed_ip in subnet.ips.objects:
                self.assertIn(
                    ipaddress.ip_address(str(fixed_ip.address)),
                    ipaddress.ip_network(str(subnet.cidr)))
