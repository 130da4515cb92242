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

"""Connections between pod A and its peer, packet by packet."""

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import rows
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p

A, PEER = bench.A, bench.PEER
REDIRECT = bench.REDIRECT
FAMILIES = (4, 6)
ALLOW, DENY = rows.RULESET_ALLOW, rows.RULESET_DENY

SYN, SYN_ACK, ACK, FIN, RST = (p.SYN, p.SYN | p.ACK, p.ACK, p.FIN | p.ACK,
                               p.RST | p.ACK)
HALF = 'kc_ct_new'


class ConnectionCase(bench.Case):
    """Pod A at port 4000, its peer at port 80."""

    version = 4

    def rules(self, ingress=ALLOW, egress=ALLOW):
        """Replace the rulesets, as one change of policy."""
        self.bench.endpoint(A, ingress, egress)
        self.bench.next_epoch()

    def tcp_out(self, flags, expected=REDIRECT, peer=None):
        self.assertOut(expected, p.ip(
            A.address(self.version), peer or PEER[self.version], p.TCP,
            p.tcp(4000, 80, flags)))

    def tcp_in(self, flags, expected=REDIRECT, peer=None):
        self.assertInto(expected, p.ip(
            peer or PEER[self.version], A.address(self.version), p.TCP,
            p.tcp(80, 4000, flags)))

    def udp_out(self, expected=REDIRECT, lport=4000):
        self.assertOut(expected, p.ip(
            A.address(self.version), PEER[self.version], p.UDP,
            p.udp(lport, 80)))

    def udp_in(self, expected=REDIRECT, lport=4000):
        self.assertInto(expected, p.ip(
            PEER[self.version], A.address(self.version), p.UDP,
            p.udp(80, lport)))

    def echo_out(self, expected=REDIRECT, reply=False, ident=5):
        source, target = A.address(self.version), PEER[self.version]
        self.assertOut(expected, p.ip(source, target, *p.echo(
            source, target, ident, reply)))

    def echo_in(self, expected=REDIRECT, reply=False, ident=5):
        source, target = PEER[self.version], A.address(self.version)
        self.assertInto(expected, p.ip(source, target, *p.echo(
            source, target, ident, reply)))

    def open_out(self):
        self.tcp_out(SYN)
        self.tcp_in(SYN_ACK)
        self.tcp_out(ACK)

    def open_in(self):
        self.tcp_in(SYN)
        self.tcp_out(SYN_ACK)
        self.tcp_in(ACK)

    def only(self, table='kc_ct'):
        """The only entry of a table; the other one is empty."""
        other = HALF if table == 'kc_ct' else 'kc_ct'
        self.assertEqual({}, self.bench.connections(table=other))
        entry, = self.bench.connections(table=table).values()
        return entry

    def count(self):
        value = libbpf.map_lookup(self.bench.fd('kc_ct_count'),
                                  layout.U32.pack(A.number))
        return layout.U64.unpack(value)[0] if value else 0
