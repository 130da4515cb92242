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

"""Links, addresses, routes and neighbours in namespaces of the test's."""

from kuryr_cilium import exceptions
from kuryr_cilium.linux import ethtool
from kuryr_cilium.linux import netlink
from kuryr_cilium.linux import sysctl
from tests import base
from tests.functional.binding import fixtures


class NetlinkCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.Node())
        self.net = netlink.Netlink()
        self.addCleanup(self.net.__exit__)
        self.net.add_veth('kca0', 'kca1', 1400, '02:00:00:00:00:01')

    def up(self):
        for name in ('kca0', 'kca1'):
            self.net.set_up(name)


class TestLinks(NetlinkCase):

    def test_veth(self):
        link = self.net.require('kca1')
        self.assertEqual(('kca1', '02:00:00:00:00:01', 1400, False),
                         (link.name, link.mac, link.mtu, link.up))
        self.up()
        self.assertTrue(self.net.require('kca1').up)
        self.assertEqual({'lo', 'kca0', 'kca1'}, set(self.net.names()))

    def test_delete_twice(self):
        self.assertTrue(self.net.delete_link('kca0'))
        self.assertFalse(self.net.delete_link('kca0'))
        self.assertIsNone(self.net.link('kca1'))

    def test_taken_name(self):
        error = self.assertRaises(exceptions.LinkError, self.net.add_veth,
                                  'kca0', 'kca2', 1400)
        self.assertIn('kca0', str(error))
        self.assertIn('File exists', str(error))

    def test_missing(self):
        error = self.assertRaises(exceptions.LinkError, self.net.set_up,
                                  'kca9')
        self.assertIn('kca9', str(error))

    def test_offloads(self):
        for offload in ethtool.Offload:
            self.assertTrue(ethtool.enabled('kca0', offload), offload)
        ethtool.disable('kca0', *ethtool.Offload)
        for offload in ethtool.Offload:
            self.assertFalse(ethtool.enabled('kca0', offload), offload)
            self.assertTrue(ethtool.enabled('kca1', offload) or
                            offload is not ethtool.Offload.TX_CHECKSUM)
        self.assertRaises(exceptions.LinkError, ethtool.disable, 'kca9',
                          ethtool.Offload.TSO)

    def test_sysctl(self):
        sysctl.write_ipv6('kca0', {'accept_ra': 0})
        self.assertEqual(0, sysctl.read_ipv6('kca0', 'accept_ra'))
        self.assertIsNone(sysctl.read_ipv6('kca9', 'accept_ra'))
        self.assertRaises(exceptions.LinkError, sysctl.write_ipv6, 'kca9',
                          {'accept_ra': 0})


class TestAddresses(NetlinkCase):

    def test_add_twice(self):
        self.up()
        for _ in range(2):
            self.net.add_address('kca0', '192.0.2.7', 24)
            self.net.add_address('kca0', 'fd01::7', 64)
        self.assertLessEqual({'192.0.2.7', 'fd01::7'},
                             set(self.net.addresses('kca0')))
        self.assertNotIn('tentative', fixtures.run(
            'ip', 'address', 'show', 'dev', 'kca0', 'to', 'fd01::7'))
        self.assertLessEqual({'192.0.2.7', 'fd01::7'}, netlink.addresses())

    def test_source_without_default_route(self):
        self.assertIsNone(netlink.default_source(4))
        self.up()
        self.net.add_address('kca0', '198.51.100.7', 24)
        self.net.add_address('kca0', 'fd01::7', 64)
        self.assertEqual('198.51.100.7', netlink.default_source(4))
        self.assertEqual('fd01::7', netlink.default_source(6))

    def test_source_of_default_route(self):
        self.up()
        self.net.add_address('kca0', '198.51.100.7', 24)
        self.net.add_address('kca1', '203.0.113.7', 24)
        self.net.add_address('kca1', 'fd02::7', 64)
        self.net.replace_route('0.0.0.0/0', 'kca1', '203.0.113.1')
        self.net.replace_route('::/0', 'kca1', 'fd02::1')
        self.assertEqual('203.0.113.7', netlink.default_source(4))
        self.assertEqual('fd02::7', netlink.default_source(6))


class TestRoutes(NetlinkCase):

    def setUp(self):
        super().setUp()
        self.up()
        self.net.add_address('kca0', '192.0.2.7', 24)
        self.net.add_address('kca0', 'fd01::7', 64)

    def test_replace(self):
        for _ in range(2):
            self.net.replace_route('198.51.100.1/32', 'kca0',
                                   source='192.0.2.7')
            self.net.replace_route('fd09::1/128', 'kca0', source='fd01::7')
            self.net.replace_route('0.0.0.0/0', 'kca0', '192.0.2.1')
            self.net.replace_route('::/0', 'kca0', 'fd01::')
        self.assertLessEqual({
            ('198.51.100.1/32', None), ('fd09::1/128', None),
            ('0.0.0.0/0', '192.0.2.1'), ('::/0', 'fd01::'),
            ('192.0.2.0/24', None), ('fd01::/64', None),
        }, self.net.routes('kca0'))
        self.assertIn('src 192.0.2.7', fixtures.run(
            'ip', 'route', 'get', '198.51.100.1'))
        self.assertIn('src fd01::7', fixtures.run(
            'ip', 'route', 'get', 'fd09::1'))

    def test_ways(self):
        for address, version in (('203.0.113.1', 4), ('fd09::1', 6)):
            self.assertIsNone(self.net.way_to(address))
            network = '203.0.113.0/24' if version == 4 else 'fd09::/64'
            gateway = '192.0.2.1' if version == 4 else 'fd01::1'
            self.net.replace_route(network, 'kca0', gateway)
            self.assertEqual('via %s dev kca0' % gateway,
                             self.net.way_to(address))
            for kind in ('unreachable', 'blackhole', 'prohibit'):
                fixtures.run('ip', 'route', 'add', kind, address)
                self.assertIsNone(self.net.way_to(address), kind)
                fixtures.run('ip', 'route', 'del', address)
        self.assertEqual('dev kca0', self.net.way_to('192.0.2.9'))
        self.assertIsNone(self.net.way_to('192.0.2.7'))
        self.assertIsNone(self.net.way_to('fd01::7'))

    def test_moves_to_another_link(self):
        for name in ('kca0', 'kca1'):
            self.net.replace_route('198.51.100.1/32', name)
            self.net.replace_route('fd09::1/128', name)
        for destination in ('198.51.100.1', 'fd09::1'):
            self.assertIn('dev kca1', fixtures.run(
                'ip', 'route', 'get', destination))

    def test_gateway_outside_the_subnet(self):
        self.assertRaises(exceptions.LinkError, self.net.replace_route,
                          '0.0.0.0/0', 'kca0', '203.0.113.1')
        self.net.replace_route('0.0.0.0/0', 'kca0', '203.0.113.1',
                               onlink=True)
        self.net.replace_route('::/0', 'kca0', 'fd0a::1', onlink=True)
        self.assertIn(('0.0.0.0/0', '203.0.113.1'), self.net.routes('kca0'))

    def test_source_that_is_not_ours(self):
        error = self.assertRaises(
            exceptions.LinkError, self.net.replace_route, '198.51.100.1/32',
            'kca0', source='192.0.2.99')
        self.assertIn('src 192.0.2.99', str(error))

    def test_neighbours(self):
        for mac in ('02:00:00:00:00:05', '02:00:00:00:00:06'):
            self.net.replace_neighbour('192.0.2.9', mac, 'kca0')
            self.net.replace_neighbour('fd01::9', mac, 'kca0')
        found = self.net.neighbours('kca0')
        self.assertEqual((mac, mac), (found['192.0.2.9'], found['fd01::9']))
        self.assertIn('PERMANENT', fixtures.run('ip', 'neighbour', 'show',
                                                'to', 'fd01::9'))
