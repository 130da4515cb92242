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

"""Packets on an uplink of the node, one by one, and what becomes of them."""

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import outside
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.lb import frontends
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p

A, NODE, REMOTE, PASS = bench.A, bench.NODE, bench.PEER, bench.PASS
FAMILIES = (4, 6)
#: A pod of this node.
LOCAL = {4: A.v4, 6: A.v6}
CLIENT = {4: '198.51.100.9', 6: '2001:db8:9::9'}
ROUTER = {4: '198.51.100.1', 6: '2001:db8:9::1'}
VIP = {4: '203.0.113.80', 6: 'fd53::80'}
SECOND = {4: '203.0.113.81', 6: 'fd53::81'}
ANY = {4: '0.0.0.0', 6: '::'}
PORTS = (61000, 65535)
NODE_PORT = 30080
OUTSIDE = frontends.OUTSIDE
SYN, SYN_ACK, ACK, FIN, RST = (p.SYN, p.SYN | p.ACK, p.ACK, p.FIN | p.ACK,
                               p.RST | p.ACK)
PROTOCOLS = (p.TCP, p.UDP)

#: Of the loopback device, on which test packets are.
OUR_MAC = '00:00:00:00:00:00'
CLIENT_MAC = '02:00:00:00:09:09'


def l4(source, target, protocol, sport, dport, flags=SYN, payload=b'data'):
    """A packet with right checksums."""
    pseudo = p.packed(source) + p.packed(target)
    if protocol == p.TCP:
        return p.ip(source, target, p.TCP,
                    p.tcp(sport, dport, flags, payload, pseudo))
    if protocol == p.SCTP:
        return p.ip(source, target, p.SCTP, p.sctp(
            sport, dport, {SYN: 1, SYN_ACK: 2}.get(flags, 0)))
    return p.ip(source, target, p.UDP, p.checked_udp(source, target, sport,
                                                     dport, payload))


class UplinkCase(bench.Case):
    """The node with a pod, and clients outside."""

    def setUp(self):
        super().setUp()
        self._numbers = iter(range(100, 1000))
        self.prepare()

    def prepare(self):
        self.bench.set_meta(layout.Meta.NODE_PORTS, 30000 << 16 | 32767)
        for version in FAMILIES:
            self.here(NODE[version], outside.Here.NODE)
            self.here(LOCAL[version], outside.Here.POD)
        self.exits(NODE)

    def here(self, address, what):
        self.bench.update('kc_here', layout.addr16(address),
                          layout.U32.pack(what))

    def exits(self, addresses, ports=PORTS):
        for index, version in enumerate(FAMILIES):
            self.bench.update('kc_exit', layout.U32.pack(index), outside.Exit(
                addresses[version], *ports).pack())

    def service(self, address, *backends, port=80, protocol=p.TCP,
                affinity=0, number=7, scope=OUTSIDE):
        """Write a service.

        :param backends: (address, port).
        """
        rows = next(self._numbers)
        for index, backend in enumerate(backends):
            self.bench.update(
                'kc_backend', service_rows.BackendKey(rows, index).pack(),
                service_rows.Backend(*backend, None, 0).pack())
        self.row(address, service_rows.Svc(
            rows, len(backends), number, affinity), port, protocol, scope)

    def row(self, address, row, port=80, protocol=p.TCP, scope=OUTSIDE):
        self.bench.update('kc_svc', service_rows.SvcKey(
            scope, address, port, protocol).pack(), row.pack())

    def enter(self, packet, expected=PASS, dmac=OUR_MAC):
        """What becomes of what comes in."""
        return self._run('from_uplink', p.frame(CLIENT_MAC, dmac, packet),
                         expected)

    def leave(self, packet, expected=PASS):
        """What becomes of what the node's stack sends out."""
        return self._run('to_uplink', p.frame(OUR_MAC, CLIENT_MAC, packet),
                         expected)

    def _run(self, program, frame, expected):
        self.assertEqual(expected, self.bench.run(program, frame))
        found = p.Parsed(self.bench.frame)
        if expected is PASS:
            self.assertEqual([], found.wrong_sums())
            self.assertEqual(frame[:12], self.bench.frame[:12])
        return found

    def assertUntouched(self, data, programs=('from_uplink', 'to_uplink')):
        for program in programs:
            self.assertEqual(PASS, self.bench.run(program, data))
            self.assertEqual(data, self.bench.frame)

    def ask(self, version=4, protocol=p.TCP, flags=SYN, sport=4000, vip=None,
            port=80, client=None):
        """The packet's flow after a packet of a client has come in."""
        return self.enter(l4((client or CLIENT)[version],
                             (vip or VIP)[version], protocol, sport, port,
                             flags)).flow

    def answered(self, version=4, protocol=p.TCP, flags=SYN_ACK, sport=4000,
                 backend=None, port=8080):
        """The same after a local backend has answered."""
        return self.leave(l4((backend or LOCAL)[version], CLIENT[version],
                             protocol, port, sport, flags)).flow

    def entries(self, *tables):
        return {outside.Key.unpack(key): outside.Entry.unpack(value)
                for table in tables or outside.FLOWS for key, value
                in libbpf.map_items(self.bench.fd(table))}

    def delete(self, *keys):
        for table in outside.FLOWS:
            for key in keys:
                libbpf.map_delete(self.bench.fd(table), key.pack())

    def flow(self):
        """The only flow."""
        found, = (entry for entry in self.entries().values()
                  if entry.flags & outside.Flag.FLOW)
        return found

    def ways(self):
        return {key: entry for key, entry in self.entries().items()
                if not entry.flags & outside.Flag.FLOW}

    def age(self, seconds):
        """Make it longer ago that anything came by."""
        last = (bench.now() - int(seconds * 1e9)) % (1 << 64)
        for table in outside.FLOWS:
            for key, value in self.entries(table).items():
                self.bench.update(table, key.pack(),
                                  value._replace(last=last).pack())
