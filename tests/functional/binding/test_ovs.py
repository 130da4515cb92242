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

"""The ovs binding driver on real links and a real Open vSwitch."""

import socket
import time

from kuryr_cilium.binding import ovs
from kuryr_cilium import exceptions
from kuryr_cilium.linux import ethtool
from kuryr_cilium.linux import netlink
from kuryr_cilium.linux import netns
from kuryr_cilium.linux import sysctl
from tests import base
from tests.functional.binding import fixtures
from tests.unit.binding import vifs

POD = ('7f7e64ad-0000-4000-8000-000000000001', 'default/web')


class OVSCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.node = self.useFixture(fixtures.Node())
        self.switch = self.useFixture(fixtures.OpenVSwitch())
        self.pod = self.useFixture(fixtures.Namespace())
        self.driver = ovs.OVSDriver(self.switch.conf())
        self.addCleanup(self.driver.close)
        self.vif = vifs.make()
        self.links = self.driver.links(self.vif)

    def create_and_plug(self):
        self.driver.create_links(self.vif, self.pod.path, 'eth0')
        self.driver.plug(self.vif, *POD)

    def soon(self, seconds=10):
        return time.monotonic() + base.scaled(seconds)

    def install(self):
        self.switch.will_install(self.links.tap).wait()
        self.driver.wait_wired(self.vif, self.soon())

    def names(self):
        with netlink.Netlink() as net:
            return set(net.names())


class TestLinks(OVSCase):

    def test_names(self):
        tail = self.vif.id[:11]
        self.assertEqual(('kc' + tail, 'kq' + tail, 'tap' + tail),
                         (self.links.kc, self.links.kq, self.links.tap))

    def test_down_and_hardened(self):
        made = self.driver.create_links(self.vif, self.pod.path, 'eth0')

        self.assertEqual(self.links, made)
        with netlink.Netlink() as net:
            for name in (made.kc, made.kq, made.tap):
                link = net.require(name)
                self.assertFalse(link.up, name)
                self.assertEqual(1442, link.mtu)
                self.assertEqual(1, sysctl.read_ipv6(name, 'addr_gen_mode'))
        for name, setting, value in (
                (made.kq, 'disable_ipv6', 1), (made.tap, 'disable_ipv6', 1),
                (made.kc, 'disable_ipv6', 0), (made.kc, 'accept_ra', 0),
                (made.kc, 'accept_dad', 0)):
            self.assertEqual(value, sysctl.read_ipv6(name, setting),
                             (name, setting))
        for offload in ethtool.Offload:
            self.assertFalse(ethtool.enabled(made.kq, offload), offload)
        self.assertFalse(ethtool.enabled(made.tap,
                                         ethtool.Offload.TX_CHECKSUM))

    def test_pods_end(self):
        self.driver.create_links(self.vif, self.pod.path, 'eth0')

        link, settings = netns.run(self.pod.path, self._look, 'eth0')
        self.assertEqual((self.vif.address, 1442, False),
                         (link.mac, link.mtu, link.up))
        self.assertEqual({'accept_ra': 0, 'autoconf': 0, 'accept_dad': 0},
                         settings)

    def _look(self, name):
        with netlink.Netlink() as net:
            return net.require(name), {
                key: sysctl.read_ipv6(name, key)
                for key in ('accept_ra', 'autoconf', 'accept_dad')}

    def test_again(self):
        self.driver.create_links(self.vif, self.pod.path, 'eth0')
        with netlink.Netlink() as net:
            before = net.require(self.links.kc).index
            self.driver.create_links(self.vif, self.pod.path, 'eth0')
            self.assertNotEqual(before, net.require(self.links.kc).index)

    def test_nothing_of_the_host_enters_the_pod(self):
        self.driver.create_links(self.vif, self.pod.path, 'eth0')
        with netlink.Netlink() as net:
            for name in (self.links.kc, self.links.kq, self.links.tap):
                net.set_up(name)
                self.assertEqual([], list(net.addresses(name)), name)

    def test_name_taken_in_the_pod(self):
        fixtures.run('ip', '-n', self.pod.name, 'link', 'add', 'eth0', 'type',
                     'bridge')
        error = self.assertRaises(
            exceptions.LinkError, self.driver.create_links, self.vif,
            self.pod.path, 'eth0')
        self.assertIn('File exists', str(error))

    def test_no_namespace(self):
        self.pod.remove()
        self.assertRaises(exceptions.NetnsGone, self.driver.create_links,
                          self.vif, self.pod.path, 'eth0')
        self.assertEqual(set(), self.driver.found_links())

    def test_found_and_removed(self):
        self.create_and_plug()
        other = self.driver.links(vifs.make())
        fixtures.run('ip', 'link', 'add', other.kq, 'type', 'bridge')
        fixtures.run('ip', 'link', 'add', 'kcfoo', 'type', 'bridge')

        self.assertEqual({self.links, other}, self.driver.found_links())
        for links in (self.links, other, other):
            self.driver.remove_links(links)
        self.assertEqual(set(), self.driver.found_links())
        self.assertIn('kcfoo', self.names())
        self.assertEqual('', self.switch.vsctl('list-ports', 'br-int'))


class TestPlug(OVSCase):

    def test_plug(self):
        self.create_and_plug()

        with netlink.Netlink() as net:
            for name in (self.links.kc, self.links.kq, self.links.tap):
                self.assertTrue(net.require(name).up, name)
        get = ('get', 'Interface', self.links.tap)
        self.assertEqual('"%s"' % self.vif.id, self.switch.vsctl(
            *get, 'external_ids:iface-id'))
        self.assertEqual('"%s"' % self.vif.address, self.switch.vsctl(
            *get, 'external_ids:attached-mac'))
        self.assertGreater(int(self.switch.vsctl(*get, 'ofport')), 0)
        self.assertEqual(fixtures.DATAPATH, self.switch.vsctl(
            'get', 'Bridge', 'br-int', 'datapath_type'))
        self.assertEqual({self.vif.id}, self.driver.plugged())

    def test_bridge_keeps_its_datapath_type(self):
        del self.vif.port_profile.datapath_type
        self.create_and_plug()
        self.assertEqual(fixtures.DATAPATH, self.switch.vsctl(
            'get', 'Bridge', 'br-int', 'datapath_type'))

    def test_unplug(self):
        before = self.names()
        self.create_and_plug()
        for _ in range(2):
            self.driver.unplug(self.vif, *POD)
            self.assertEqual(before, self.names())
            self.assertEqual('', self.switch.vsctl('list-ports', 'br-int'))
        self.assertEqual(set(), self.driver.plugged())

    def test_unplug_after_the_bridge_is_gone(self):
        self.create_and_plug()
        self.switch.vsctl('add-br', 'br-new', '--', 'set', 'Bridge', 'br-new',
                          'datapath_type=' + fixtures.DATAPATH)
        self.switch.vsctl('del-br', 'br-int')
        self.driver.unplug(self.vif, *POD)
        self.assertEqual(set(), self.driver.found_links())

    def test_unplug_of_what_cannot_be_plugged(self):
        self.driver.unplug(vifs.make_hybrid(), *POD)

    def test_stale_installed_is_not_taken(self):
        self.create_and_plug()
        self.install()

        self.create_and_plug()
        self.assertRaises(exceptions.VIFNotWired, self.driver.wait_wired,
                          self.vif, self.soon(0.3))
        self.install()
        self.assertIsNone(self.driver.check(self.vif))

    def test_frames_pass_after_a_second_time(self):
        # ovs-vswitchd must read the new link, not the dead one of its name.
        self.create_and_plug()
        self.create_and_plug()

        def received():
            return int(self.switch.vsctl(
                'get', 'Interface', self.links.tap, 'statistics:rx_packets'))

        before = received()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((self.links.kq, 0))
            sock.send(b'\xff' * 6 + b'\x02' * 6 + b'\x88\xb5' + bytes(46))
        self.assertEventually(lambda: received() > before, 15,
                              'the switch sees what kq sends')

    def test_hybrid_plug_is_refused(self):
        error = self.assertRaises(
            exceptions.VIFNotSupported, self.driver.create_links,
            vifs.make_hybrid(), self.pod.path, 'eth0')
        self.assertIn('firewall_driver', str(error))

    def test_bridge_that_is_not_there(self):
        error = self.assertRaises(
            exceptions.VIFNotSupported, self.driver.create_links,
            vifs.make(bridge='br-x'), self.pod.path, 'eth0')
        self.assertIn('no bridge br-x', str(error))
        self.assertNotIn('br-x', self.switch.vsctl('list-br'))


class TestWired(OVSCase):

    def test_by_ovn(self):
        self.create_and_plug()
        self.assertIn('has not wired', self.driver.check(self.vif))
        self.install()
        self.assertIsNone(self.driver.check(self.vif))

    def test_by_neutrons_agent(self):
        self.create_and_plug()
        self.switch.vsctl('set', 'Port', self.links.tap, 'tag=4095')
        self.assertRaises(exceptions.VIFNotWired, self.driver.wait_wired,
                          self.vif, self.soon(0.3))
        self.switch.vsctl('set', 'Port', self.links.tap, 'tag=7')
        self.driver.wait_wired(self.vif, self.soon())

    def test_who_did_not(self):
        self.create_and_plug()
        for setting, process in (
                ('ovn-remote=tcp:192.0.2.1:6642', 'ovn-controller'),
                (None, 'neutron-openvswitch-agent')):
            if setting:
                self.switch.vsctl('set', 'Open_vSwitch', '.',
                                  'external_ids:' + setting)
            else:
                self.switch.vsctl('remove', 'Open_vSwitch', '.',
                                  'external_ids', 'ovn-remote')
            error = self.assertRaises(
                exceptions.VIFNotWired, self.driver.wait_wired, self.vif,
                self.soon(0.2))
            self.assertIn(process, str(error))

    def test_port_removed(self):
        self.create_and_plug()
        self.install()
        self.switch.vsctl('del-port', self.links.tap)
        self.assertEventually(lambda: 'no port' in (
            self.driver.check(self.vif) or ''))
        error = self.assertRaises(
            exceptions.VIFNotWired, self.driver.wait_wired, self.vif,
            self.soon(0.2))
        self.assertIn('ovs-vswitchd', str(error))

    def test_check_sees_links(self):
        self.create_and_plug()
        self.install()
        fixtures.run('ip', 'link', 'set', self.links.kq, 'down')
        self.assertIn('is down', self.driver.check(self.vif))
        fixtures.run('ip', 'link', 'del', self.links.kc)
        self.assertIn('%s is missing' % self.links.kc,
                      self.driver.check(self.vif))


class TestBroken(OVSCase):

    def setUp(self):
        super().setUp()
        self.driver.close()
        self.driver = ovs.OVSDriver(self.switch.conf(timeout=2))
        self.addCleanup(self.driver.close)

    def test_vswitchd_dead(self):
        self.create_and_plug()
        self.switch.stop('ovs-vswitchd')

        error = self.assertRaises(
            exceptions.SwitchUnavailable, self.driver.create_links, self.vif,
            self.pod.path, 'eth0')
        self.assertIn('ovs-vswitchd', str(error))
        self.driver.unplug(self.vif, *POD)
        self.assertEqual(set(), self.driver.found_links())
        self.switch.start_vswitchd()
        self.create_and_plug()

    def test_unplug_with_vswitchd_dead(self):
        self.create_and_plug()
        self.switch.stop('ovs-vswitchd')
        self.driver.unplug(self.vif, *POD)
        self.assertEqual(set(), self.driver.plugged())
        self.assertEqual(set(), self.driver.found_links())

    def test_database_restarted(self):
        self.create_and_plug()
        self.switch.stop_database()
        error = self.assertRaises(exceptions.SwitchUnavailable,
                                  self.driver.unplug, self.vif, *POD)
        self.assertIn('ovsdb', str(error))
        self.assertNotIn(self.links.kc, self.names())

        self.switch.start_database()
        self.assertEventually(self._unplugged, timeout=20)
        self.create_and_plug()
        self.install()

    def _unplugged(self):
        try:
            self.driver.unplug(self.vif, *POD)
        except exceptions.SwitchUnavailable:
            return False
        return True

    def test_no_database(self):
        self.switch.stop_all()
        self.driver.close()
        driver = ovs.OVSDriver(self.switch.conf(timeout=1))
        error = self.assertRaises(
            exceptions.SwitchUnavailable, driver.create_links, self.vif,
            self.pod.path, 'eth0')
        self.assertIn('ovsdb_connection', str(error))
