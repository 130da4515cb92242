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

"""ICMP errors about flows from outside to services."""

import struct

from tests.functional.datapath import packets as p
from tests.functional.datapath import uplinks
from tests.functional.datapath.uplinks import l4

CLIENT, NODE, VIP, ROUTER = (uplinks.CLIENT, uplinks.NODE, uplinks.VIP,
                             uplinks.ROUTER)
LOCAL, REMOTE, FAMILIES = uplinks.LOCAL, uplinks.REMOTE, uplinks.FAMILIES


class TestErrors(uplinks.UplinkCase):

    def quoted(self, *flow):
        """The head of a packet: source, target and ports."""
        source, target, sport, dport = flow
        return l4(source, target, p.TCP, sport, dport)

    def error(self, run, source, target, *flow):
        """Source, target and quoted flow of an error that passes by."""
        found = run(p.ip(source, target, *p.error(
            source, target, self.quoted(*flow))))
        quoted = p.Parsed(bytes(14) + found.payload[8:])
        if found.packet[0] >> 4 == 4:
            self.assertEqual(bytes(2), p.checksum(found.payload[8:28]))
        return (*found.flow[:2], quoted.flow)

    def test_about_what_was_sent_to_a_local_pod(self):
        """Of the pod, and of the node, whose link to it is narrower."""
        for version in FAMILIES:
            client, vip, pod = CLIENT[version], VIP[version], LOCAL[version]
            self.service(vip, (pod, 8080))
            self.ask(version)
            for source, seen in ((pod, vip), (NODE[version], NODE[version])):
                self.assertEqual(
                    (seen, client, (client, vip, 4000, 80)),
                    self.error(self.leave, source, client, client, pod, 4000,
                               8080))

    def test_about_what_a_local_pod_has_answered(self):
        for version in FAMILIES:
            client, vip, pod = CLIENT[version], VIP[version], LOCAL[version]
            self.service(vip, (pod, 8080))
            self.ask(version)
            for source in (ROUTER[version], client):
                self.assertEqual(
                    (source, pod, (pod, client, 8080, 4000)),
                    self.error(self.enter, source, vip, vip, client, 80,
                               4000))

    def test_about_what_was_sent_elsewhere(self):
        for version in FAMILIES:
            client, vip, node, backend = (
                CLIENT[version], VIP[version], NODE[version], REMOTE[version])
            self.service(vip, (backend, 8080))
            port = self._port(version)
            for source, seen in ((ROUTER[version], ROUTER[version]),
                                 (backend, vip)):
                self.assertEqual(
                    (source, client, (client, backend, 4000, 8080)),
                    self.error(self.enter, source, node, node, backend, port,
                               8080))
                self.assertEqual(
                    (seen, client, (client, vip, 4000, 80)),
                    self.error(self.leave, source, client, client, backend,
                               4000, 8080))

    def test_about_what_was_answered_elsewhere(self):
        for version in FAMILIES:
            client, vip, node, backend = (
                CLIENT[version], VIP[version], NODE[version], REMOTE[version])
            self.service(vip, (backend, 8080))
            port = self._port(version)
            for source, seen in ((ROUTER[version], ROUTER[version]),
                                 (client, node)):
                self.assertEqual(
                    (source, backend, (backend, client, 8080, 4000)),
                    self.error(self.enter, source, vip, vip, client, 80,
                               4000))
                self.assertEqual(
                    (seen, backend, (backend, node, 8080, port)),
                    self.error(self.leave, source, backend, backend, client,
                               8080, 4000))

    def _port(self, version):
        self.ask(version)
        return self.leave(l4(CLIENT[version], REMOTE[version], p.TCP, 4000,
                             8080)).flow[2]

    def test_about_nothing_of_a_service(self):
        for version in FAMILIES:
            self.service(VIP[version], (LOCAL[version], 8080))
            self.ask(version)
            client, vip = CLIENT[version], VIP[version]
            for quoted in (self.quoted(vip, client, 80, 4001),
                           self.quoted(vip, client, 80, 4000)[:-17],
                           p.ip(vip, client, *p.echo(vip, client, 5))):
                self.assertUntouched(p.frame(
                    uplinks.CLIENT_MAC, uplinks.OUR_MAC, p.ip(
                        client, vip, *p.error(client, vip, quoted))))

    def test_after_the_flow(self):
        self.service(VIP[4], (LOCAL[4], 8080))
        self.ask()
        self.age(61)
        for flow in ((VIP[4], CLIENT[4], 80, 4000),
                     (CLIENT[4], LOCAL[4], 4000, 8080)):
            self.assertUntouched(p.frame(
                uplinks.CLIENT_MAC, uplinks.OUR_MAC, p.ip(
                    ROUTER[4], flow[0], *p.error(
                        ROUTER[4], flow[0], self.quoted(*flow)))))

    def test_a_redirect_is_about_the_way_to_the_backend(self):
        self.service(VIP[4], (REMOTE[4], 8080))
        port = self._port(4)
        for flow in ((CLIENT[4], REMOTE[4], 4000, 8080),
                     (NODE[4], REMOTE[4], port, 8080)):
            self.assertUntouched(p.frame(
                uplinks.CLIENT_MAC, uplinks.OUR_MAC, p.ip(
                    NODE[4], flow[0], p.ICMP, p.icmp(
                        5, 1, p.packed(ROUTER[4]), self.quoted(*flow)))))

    def test_the_size_that_fits_is_told_as_it_is(self):
        self.service(VIP[4], (LOCAL[4], 8080))
        self.ask()
        found = self.leave(p.ip(NODE[4], CLIENT[4], p.ICMP, p.icmp(
            3, 4, struct.pack('>HH', 0, 1442),
            self.quoted(CLIENT[4], LOCAL[4], 4000, 8080))))
        self.assertEqual((3, 4, 0, 1442),
                         struct.unpack_from('>BBxxHH', found.payload))
