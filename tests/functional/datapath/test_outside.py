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

"""What the agent keeps for the programs of uplinks, and sweeps."""

from unittest import mock

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.datapath.bpf import outside
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p
from tests.functional.datapath import uplinks

VIP, LOCAL, REMOTE, CLIENT = (uplinks.VIP, uplinks.LOCAL, uplinks.REMOTE,
                              uplinks.CLIENT)
Here = outside.Here


class TestAddresses(bench.Case):

    def setUp(self):
        super().setUp()
        self.maps = maps_.Maps(self.bench.maps)
        self.addresses = outside.Addresses(self.maps)

    def here(self):
        return {layout.addr_text(key): Here(layout.U32.unpack(value)[0])
                for key, value in libbpf.map_items(self.bench.fd('kc_here'))}

    def exits(self):
        return [outside.Exit.unpack(value) for _, value in libbpf.map_items(
            self.bench.fd('kc_exit'))]

    def test_come_and_go(self):
        self.addresses.set_nodes(['192.0.2.1', 'fd51::1'])
        self.addresses.set_pod('a', ['10.0.0.1', 'fd00::1'])
        self.addresses.set_pod('b', ['10.0.0.2'])
        self.assertEqual(
            {'192.0.2.1': Here.NODE, 'fd51::1': Here.NODE,
             '10.0.0.1': Here.POD, 'fd00::1': Here.POD,
             '10.0.0.2': Here.POD}, self.here())
        self.addresses.set_nodes(['192.0.2.9'])
        self.addresses.set_pod('a', ['10.0.0.3'])
        self.addresses.set_pod('b', ())
        self.assertEqual({'192.0.2.9': Here.NODE, '10.0.0.3': Here.POD},
                         self.here())

    def test_an_address_of_two(self):
        """As when a pod's successor comes before it has gone."""
        self.addresses.set_pod('a', ['10.0.0.1'])
        self.addresses.set_pod('b', ['10.0.0.1'])
        self.addresses.set_pod('a', ())
        self.assertEqual({'10.0.0.1': Here.POD}, self.here())
        self.addresses.set_nodes(['10.0.0.1'])
        self.assertEqual({'10.0.0.1': Here.NODE}, self.here())

    def test_of_an_earlier_process(self):
        self.addresses.set_nodes(['192.0.2.1'])
        self.addresses.set_pod('a', ['10.0.0.1'])
        self.addresses.set_pod('b', ['10.0.0.2'])
        self.addresses = outside.Addresses(self.maps)
        self.addresses.set_nodes(['192.0.2.2'])
        self.addresses.set_pod('b', ['10.0.0.2'])
        self.assertEqual(4, len(self.here()))
        self.addresses.purge()
        self.assertEqual({'192.0.2.2': Here.NODE, '10.0.0.2': Here.POD},
                         self.here())

    def test_exits(self):
        self.addresses.set_exit(['192.0.2.1', 'fd51::1', '192.0.2.2'],
                                (61000, 65535))
        self.assertEqual([outside.Exit('192.0.2.1', 61000, 65535),
                          outside.Exit('fd51::1', 61000, 65535)],
                         self.exits())
        self.addresses.set_exit(['fd51::1'], (1, 2))
        self.assertEqual([outside.Exit('::', 1, 2),
                          outside.Exit('fd51::1', 1, 2)], self.exits())


class TestSweep(uplinks.UplinkCase):

    def setUp(self):
        super().setUp()
        self.maps = maps_.Maps(self.bench.maps)

    def test_what_has_expired_goes_with_its_ways(self):
        for protocol in uplinks.PROTOCOLS:
            for backend, count in ((LOCAL, 2), (REMOTE, 4)):
                self.service(VIP[4], (backend[4], 80), protocol=protocol)
                self.ask(protocol=protocol)
                self.assertEqual(count, len(self.entries()))
                self.assertEqual(0, outside.sweep(self.maps))
                self.age(61)
                self.assertEqual(count, outside.sweep(self.maps))
                self.assertEqual({}, self.entries())

    def test_what_is_open_stays_with_its_ways(self):
        self.service(VIP[4], (REMOTE[4], 80))
        self.ask()
        self.leave(uplinks.l4(REMOTE[4], CLIENT[4], p.TCP, 80, 4000,
                              uplinks.SYN_ACK))
        self.ask(flags=uplinks.ACK)
        self.age(100)
        self.assertEqual(0, outside.sweep(self.maps))
        self.assertEqual(4, len(self.entries()))
        self.ask(flags=uplinks.RST)
        self.age(11)
        self.assertEqual(1, outside.sweep(self.maps))
        self.age(61)
        self.assertEqual(3, outside.sweep(self.maps))

    def test_ways_of_a_former_backend(self):
        self.service(VIP[4], (REMOTE[4], 80))
        self.ask()
        self.ask(flags=uplinks.RST)
        self.service(VIP[4], (LOCAL[4], 80))
        self.ask()
        self.assertEqual(0, outside.sweep(self.maps))
        self.leave(uplinks.l4(LOCAL[4], CLIENT[4], p.TCP, 80, 4000,
                              uplinks.SYN_ACK))
        self.ask(flags=uplinks.ACK)
        self.age(100)
        self.assertEqual(3, outside.sweep(self.maps))
        self.assertEqual(2, len(self.entries()))

    def test_lost_backends(self):
        asked = []

        def lost(*flow):
            asked.append(flow)
            return flow[1] == 81
        for port in (80, 81):
            for protocol in uplinks.PROTOCOLS:
                self.service(VIP[4], (LOCAL[4], 8000 + port), port=port,
                             protocol=protocol)
                self.ask(protocol=protocol, port=port)
        self.assertEqual(8, len(self.entries()))
        self.assertEqual(1, outside.sweep(self.maps, lost))
        self.assertEqual({(VIP[4], 80, p.UDP, (LOCAL[4], 8080)),
                          (VIP[4], 81, p.UDP, (LOCAL[4], 8081))}, set(asked))
        self.assertEqual({(p.TCP, 80), (p.TCP, 81), (p.UDP, 80)}, {
            (key.protocol, key.destination_port)
            for key, entry in self.entries().items()
            if entry.flags & outside.Flag.FLOW})

    def test_fragments_belong_to_no_endpoint(self):
        self.service(VIP[4], (LOCAL[4], 53), protocol=p.UDP)
        data = p.checked_udp(CLIENT[4], VIP[4], 4000, 80, bytes(64))
        for part, offset, more in ((data[:40], 0, True),
                                   (data[40:], 5, False)):
            self.bench.run('from_uplink', p.frame(
                uplinks.CLIENT_MAC, uplinks.OUR_MAC, p.ipv4(
                    CLIENT[4], VIP[4], p.UDP, part, offset=offset,
                    more=more)))
            conntrack.sweep(self.maps, lambda number: False)
            self.assertEqual(p.packed(LOCAL[4]), self.bench.frame[30:34])

    def test_a_lost_backend_of_a_busy_flow(self):
        """It changes between the moments when it is read and deleted."""
        self.service(VIP[4], (LOCAL[4], 53), protocol=p.UDP)
        self.ask(protocol=p.UDP)

        def lost(*_flow):
            self.age(1)
            return True
        self.assertEqual(1, outside.sweep(self.maps, lost))

    def test_a_port_that_is_used_again_meanwhile(self):
        self.service(VIP[4], (LOCAL[4], 80))
        self.ask()
        self.age(61)

        def ask_first(fd, key):
            patch.stop()
            self.ask()
            return libbpf.map_lookup(fd, key)
        patch = mock.patch.object(libbpf, 'map_lookup', ask_first)
        patch.start()
        self.addCleanup(patch.stop)
        self.assertEqual(0, outside.sweep(self.maps))
        self.assertEqual(2, len(self.entries()))
