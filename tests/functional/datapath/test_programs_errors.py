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

"""ICMP errors pass with the connection that they are about."""

from kuryr_cilium.datapath.bpf import layout
from tests.functional.datapath import bench
from tests.functional.datapath import flows
from tests.functional.datapath import packets as p

A, B, PEER, OTHER = bench.A, bench.B, bench.PEER, bench.OTHER
REDIRECT = bench.REDIRECT
FAMILIES, ALLOW, DENY = flows.FAMILIES, flows.ALLOW, flows.DENY
Reason = layout.Reason


class TestErrors(flows.ConnectionCase):

    def quoted(self, out=True, version=4, protocol=p.UDP, lport=4000,
               peer=None):
        """The head of a packet of the connection."""
        source, target = A.address(version), peer or PEER[version]
        ports = (lport, 80)
        if not out:
            source, target, ports = target, source, ports[::-1]
        make = p.udp if protocol == p.UDP else p.tcp
        return p.ip(source, target, protocol, make(*ports))

    def error_in(self, quoted, expected=REDIRECT, source=None, version=4):
        source = source or OTHER[version]
        self.assertInto(expected, p.ip(source, A.address(version), *p.error(
            source, A.address(version), quoted)))

    def error_out(self, quoted, expected=REDIRECT, target=None, version=4):
        target = target or PEER[version]
        self.assertOut(expected, p.ip(A.address(version), target, *p.error(
            A.address(version), target, quoted)))

    def test_about_a_connection(self):
        for self.version in FAMILIES:
            self.rules(DENY, ALLOW)
            self.udp_out()
            for source in (OTHER, PEER):
                self.error_in(self.quoted(version=self.version),
                              source=source[self.version],
                              version=self.version)
            self.rules(ALLOW, DENY)
            self.udp_in(lport=4001)
            self.error_out(self.quoted(False, self.version, lport=4001),
                           version=self.version)

    def test_about_none(self):
        for version in FAMILIES:
            self.error_in(self.quoted(version=version),
                          Reason.ICMP_UNRELATED, version=version)
            self.error_out(self.quoted(False, version),
                           Reason.ICMP_UNRELATED, version=version)

    def test_only_eight_bytes_are_quoted(self):
        self.open_out()
        self.error_in(self.quoted(protocol=p.TCP)[:28])
        self.error_in(self.quoted(protocol=p.TCP)[:27], Reason.TRUNCATED)
        self.error_in(self.quoted(protocol=p.TCP)[:19], Reason.TRUNCATED)

    def test_echo(self):
        for self.version in FAMILIES:
            self.echo_out()
            asked = p.echo(A.address(self.version), PEER[self.version], 5)
            for quoted, expected in (
                    (asked, REDIRECT),
                    (p.echo(A.address(self.version), PEER[self.version], 5,
                            reply=True), Reason.ICMP_UNRELATED),
                    (p.echo(A.address(self.version), PEER[self.version], 6),
                     Reason.ICMP_UNRELATED)):
                self.error_in(p.ip(A.address(self.version),
                                   PEER[self.version], *quoted), expected,
                              version=self.version)

    def test_does_not_carry_data_to_somebody_else(self):
        self.udp_in()
        self.error_out(self.quoted(False))
        self.error_out(self.quoted(False), Reason.ICMP_UNRELATED,
                       target=OTHER[4])

    def test_about_what_another_sent(self):
        self.udp_out()
        self.error_in(p.ip(B.v4, PEER[4], p.UDP, p.udp(4000, 80)),
                      Reason.ICMP_UNRELATED)

    def test_about_a_later_fragment(self):
        self.udp_out()
        self.error_in(p.ipv4(A.v4, PEER[4], p.UDP, p.udp(4000, 80),
                             offset=2), Reason.ICMP_UNRELATED)

    def test_about_extension_headers(self):
        self.version = 6
        self.udp_out()
        self.error_in(p.ipv6(A.v6, PEER[6], p.DESTINATION,
                             p.extension(p.UDP) + p.udp(4000, 80)),
                      version=6)

    def test_redirect_of_a_pod(self):
        self.udp_in()
        self.assertOut(Reason.ICMP_UNRELATED, p.ip(
            A.v4, PEER[4], p.ICMP, p.icmp(5, 1, p.packed(B.v4),
                                          self.quoted(False))))

    def test_after_a_change_of_policy(self):
        self.udp_out()
        self.rules(ALLOW, DENY)
        self.error_in(self.quoted(), Reason.POLICY_CHANGED)
        self.udp_in(Reason.POLICY_CHANGED)

    def test_in_fragments(self):
        self.udp_out()
        _, message = p.error(OTHER[4], A.v4, self.quoted())
        self.assertInto(REDIRECT, p.ipv4(
            OTHER[4], A.v4, p.ICMP, message + bytes(4), more=True))
        self.assertInto(Reason.FRAGMENT, p.ipv4(
            OTHER[4], A.v4, p.ICMP, b'rest', offset=5))
