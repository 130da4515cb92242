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

from os_vif.objects import vif as osv_vif
from ovsdbapp import exceptions as ovsdbapp_exceptions

from kuryr_cilium.binding import driver
from kuryr_cilium.binding import ovs
from kuryr_cilium.binding import ovsdb
from tests import base
from tests.unit.binding import vifs


class TestProblem(base.TestCase):

    def test_none(self):
        self.assertIsNone(ovs._problem(vifs.make()))

    def test_bridge_of_the_network(self):
        vif = vifs.make()
        del vif.bridge_name
        self.assertIsNone(ovs._problem(vif))
        del vif.network.bridge
        self.assertIn('no bridge', ovs._problem(vif))

    def test_hybrid(self):
        self.assertIn('ovs_hybrid_plug', ovs._problem(vifs.make_hybrid()))

    def test_other_kind(self):
        vif = osv_vif.VIFVHostUser(id=vifs.make().id)
        self.assertIn('VIFVHostUser', ovs._problem(vif))

    def test_missing(self):
        for name in ('address', 'network', 'port_profile'):
            vif = vifs.make()
            delattr(vif, '_obj_' + name)
            self.assertIn(name, ovs._problem(vif))

    def test_other_profile(self):
        vif = vifs.make()
        vif.port_profile = osv_vif.VIFPortProfileBase()
        self.assertIn('VIFPortProfileBase', ovs._problem(vif))

    def test_profile_of_another_port(self):
        vif = vifs.make()
        vif.port_profile.interface_id = vifs.make().id
        self.assertIn('another', ovs._problem(vif))


class TestMTU(base.TestCase):

    def test_of_the_network(self):
        self.assertEqual(9000, driver.mtu(vifs.make(mtu=9000)))

    def test_unknown(self):
        vif = vifs.make()
        del vif.network.mtu
        self.assertEqual(1500, driver.mtu(vif))


class TestDescribe(base.TestCase):

    def test_text(self):
        self.assertEqual('x', ovsdb.describe(ValueError('x')))
        self.assertEqual('ValueError', ovsdb.describe(ValueError()))

    def test_ovsdbapp_without_text(self):
        self.assertEqual('TimeoutException', ovsdb.describe(
            ovsdbapp_exceptions.TimeoutException()))


class TestWired(base.TestCase):

    def test_wired(self):
        for ofport, installed, tag, wired in (
                (1, True, None, True), (1, False, 7, True),
                (1, False, 0, True), (1, False, None, False),
                (1, False, 4095, False), (-1, True, 7, False),
                (None, True, 7, False)):
            port = ovsdb.Port('tap', 'x', ofport, '', installed, tag)
            self.assertEqual(wired, port.wired, port)
