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

"""Fragments: only the first one has ports."""

import struct

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import rows
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p

A, B, PEER = bench.A, bench.B, bench.PEER
REDIRECT = bench.REDIRECT
FAMILIES = (4, 6)
Reason = layout.Reason


class TestFragments(bench.Case):

    def fragment(self, version, payload, protocol=p.UDP, offset=0, more=False,
                 ident=1, source=None, following=None):
        source = source or A.address(version)
        if version == 4:
            return p.ipv4(source, PEER[4], protocol, payload, offset=offset,
                          more=more, ident=ident)
        following = protocol if following is None else following
        return p.ipv6(source, PEER[6], p.FRAGMENT, p.fragment(
            following, offset, more, ident) + payload)

    def test_in_order(self):
        for version in FAMILIES:
            self.assertOut(REDIRECT, self.fragment(
                version, p.udp(1, 2), more=True))
            self.assertOut(REDIRECT, self.fragment(
                version, b'rest', offset=2))
            entry, = self.bench.connections(table='kc_ct_new').values()
            self.assertEqual(2, entry.packets_out)
            self.bench.age(1000, 'kc_ct_new')
            self.clear('kc_ct_new')

    def clear(self, table):
        for key, _ in list(libbpf.map_items(self.bench.fd(table))):
            libbpf.map_delete(self.bench.fd(table), key)

    def test_first_not_seen(self):
        for version in FAMILIES:
            for fragment in (
                    self.fragment(version, b'rest', offset=2),
                    self.fragment(version, p.udp(1, 2), offset=2, more=True)):
                self.assertOut(Reason.FRAGMENT, fragment)
            self.assertOut(REDIRECT, self.fragment(
                version, p.udp(1, 2), more=True, ident=7))
            self.assertOut(Reason.FRAGMENT, self.fragment(
                version, b'rest', offset=2, ident=8))

    def test_first_long_ago(self):
        self.assertOut(REDIRECT, self.fragment(4, p.udp(1, 2), more=True))
        for key, value in list(libbpf.map_items(
                self.bench.fd('kc_frag'))):
            time, = struct.unpack_from('=Q', value)
            self.bench.update('kc_frag', key, struct.pack(
                '=Q', (time - 61 * 10 ** 9) % (1 << 64)) + value[8:])
        self.assertOut(Reason.FRAGMENT, self.fragment(4, b'rest', offset=2))

    def test_truncated_first(self):
        for version in FAMILIES:
            for protocol, payload in ((p.TCP, p.tcp(1, 2)[:16]),
                                      (p.UDP, p.udp(1, 2)[:7])):
                self.assertOut(Reason.TRUNCATED, self.fragment(
                    version, payload, protocol, more=True))

    def test_overlap(self):
        for version in FAMILIES:
            self.assertOut(REDIRECT, self.fragment(
                version, p.tcp(1, 2) + bytes(4), p.TCP, more=True))
            self.assertOut(Reason.FRAGMENT_OVERLAP, self.fragment(
                version, bytes(16), p.TCP, offset=1))
            self.assertOut(REDIRECT, self.fragment(
                version, bytes(16), p.TCP, offset=3))
        self.assertOut(Reason.FRAGMENT_OVERLAP, self.fragment(
            4, bytes(16), p.TCP, offset=1, ident=99))

    def test_later_one_claims_another_protocol(self):
        self.bench.endpoint(A, egress=rows.RULESET_DENY)
        self.assertOut(Reason.POLICY_DENY, self.fragment(
            6, p.udp(1, 2), more=True))
        self.assertOut(Reason.POLICY_DENY, self.fragment(
            6, b'rest', offset=2, following=50))

    def test_denied_with_the_first(self):
        self.bench.endpoint(A, egress=rows.RULESET_DENY)
        for version in FAMILIES:
            self.assertOut(Reason.POLICY_DENY, self.fragment(
                version, p.udp(1, 2), more=True))
            self.assertOut(Reason.POLICY_DENY, self.fragment(
                version, b'rest', offset=2))

    def test_echo(self):
        for version in FAMILIES:
            protocol, message = p.echo(A.address(version), PEER[version], 77)
            self.assertOut(REDIRECT, self.fragment(
                version, message + bytes(-len(message) % 8), protocol,
                more=True))
            self.assertOut(REDIRECT, self.fragment(
                version, b'rest', protocol, offset=2))
            # Without the echo's own connection it is nothing.
            self.clear('kc_ct_new')
            self.assertOut(Reason.NO_CONNECTION, self.fragment(
                version, b'rest', protocol, offset=2))

    def test_atomic(self):
        self.assertOut(REDIRECT, self.fragment(6, p.udp(1, 2)))
        self.assertEqual([], list(libbpf.map_items(
            self.bench.fd('kc_frag'))))

    def test_nd_in_fragments(self):
        message = p.icmp6(A.v6, PEER[6], 136, payload=p.packed(A.v6))
        self.assertOut(Reason.ND, p.ipv6(
            A.v6, PEER[6], p.FRAGMENT,
            p.fragment(p.ICMP6, more=True) + message, hops=255))
