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

from kuryr_cilium.agent import pod
from kuryr_cilium import exceptions
from tests import base
from tests.unit.binding import vifs


def layout(*subnets):
    return pod.layout(vifs.make(subnets=subnets), 'eth0', 'kc1', 1442)


class TestLayout(base.TestCase):

    def test_both_families(self):
        made = layout(*vifs.SUBNETS)
        self.assertEqual(('eth0', 'fa:16:3e:00:03:07', 1442, 'kc1'),
                         (made.ifname, made.mac, made.mtu, made.host_link))
        self.assertEqual((('10.99.3.7', 16, '10.99.0.1'),
                          ('fd99::3:7', 64, 'fd99::')), made.addresses)
        self.assertEqual((('0.0.0.0/0', '10.99.0.1'), ('::/0', 'fd99::')),
                         made.routes)

    def test_no_gateway_no_default_route(self):
        made = layout(('10.1.0.0/24', None, ('10.1.0.5',), ()))
        self.assertEqual((('10.1.0.5', 24, None),), made.addresses)
        self.assertEqual((), made.routes)

    def test_first_gateway_wins(self):
        made = layout(('10.1.0.0/24', None, ('10.1.0.5',), ()),
                      ('10.2.0.0/24', '10.2.0.1', ('10.2.0.5',), ()),
                      ('10.3.0.0/24', '10.3.0.1', ('10.3.0.5',), ()))
        self.assertEqual((('0.0.0.0/0', '10.2.0.1'),), made.routes)

    def test_subnet_without_address_gives_no_route(self):
        made = layout(('10.2.0.0/24', '10.2.0.1', (), ()),
                      ('10.3.0.0/24', '10.3.0.1', ('10.3.0.5',), ()))
        self.assertEqual((('0.0.0.0/0', '10.3.0.1'),), made.routes)

    def test_routes_of_the_subnet(self):
        made = layout(('10.1.0.0/24', '10.1.0.1', ('10.1.0.5',),
                       (('192.168.0.0/16', '10.1.0.9'),)))
        self.assertEqual({('192.168.0.0/16', '10.1.0.9'),
                          ('0.0.0.0/0', '10.1.0.1')}, set(made.routes))

    def test_addresses_are_canonical(self):
        made = layout(('FD99:0:0::/64', 'fd99:0::1', ('FD99::0:A',), ()))
        self.assertEqual((('fd99::a', 64, 'fd99::1'),), made.addresses)

    def test_no_address(self):
        self.assertRaises(exceptions.InvalidVIF, layout)
