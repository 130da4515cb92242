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

"""Flows of random services: who gets their packets, and who may.

Pod A is the client, and at times its own backend.
"""

import struct

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.datapath.bpf import services
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model
from kuryr_cilium.policy import entities
from tests import base
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p
from tests.functional.datapath import test_programs_services as programs
from tests.unit.lb import oracle
from tests.unit.lb import strategies
from tests.unit.lb import test_services

A, SELF = bench.A, programs.SELF
NUMBERS = {'TCP': p.TCP, 'UDP': p.UDP, 'SCTP': p.SCTP}
#: In A's network, and in another one.
PODS = {'10.0.0.3': ('02:00:00:00:07:03', 'net'),
        'fd00::3': ('02:00:00:00:07:03', 'net'),
        '10.0.0.4': ('02:00:00:00:07:04', 'other')}
NETWORKS = {'net': bench.NETWORK, 'other': bench.NETWORK + 1}

EXAMPLES, STATES, FLOWS = 8, 4, 200


class Refused:
    """What becomes of a packet that nobody may have."""


def packet(source, target, protocol, sport, dport, opening, answer=False):
    if protocol == p.SCTP:
        chunk = (2 if answer else 1) if opening else 0
        return p.ip(source, target, p.SCTP, p.sctp(sport, dport, chunk))
    flags = p.ACK if answer or not opening else 0
    return programs.l4(source, target, protocol, sport, dport,
                       flags | (p.SYN if opening else 0))


class Run:
    """Services on a bench, and the flows of its pod."""

    def __init__(self, test, bench_):
        self._test = test
        self._bench = bench_
        self._maps = maps_.Maps(bench_.maps)
        self._services = services.Services(
            self._maps, writer.Writer(self._maps), NETWORKS.get,
            (SELF[4], SELF[6]), (30000, 32767))
        for address in strategies.NODES:
            if address not in bench.NODE.values():
                bench_.peer(address, entities.Entity.REMOTE_NODE)
        # (asked, port, protocol, sport) -> backend, of open flows.
        self.flows = {}
        self._by_affinity = {}
        self._sport = 1024

    def become(self, cluster):
        """Bring a cluster's services in force."""
        self._truth = oracle.Cluster(*cluster, strategies.NODE,
                                     strategies.ZONE, strategies.NODES)
        made = test_services.services.Services(PODS.get)
        for obj in sum(cluster, []):
            (made.set_slice if 'addressType' in obj
             else made.set_service)(obj)
        self._test.assertEqual({}, self._services.update(
            made.services, model.Node(strategies.NODE, strategies.ZONE),
            frozenset(strategies.NODES)))
        self._rows = {key: row for key, row
                      in self._services.table.rows.items() if row.count}
        targets = {}
        for key, row in self._rows.items():
            for index in range(row.count):
                found = layout.Backend.unpack(libbpf.map_lookup(
                    self._bench.fd('kc_backend'),
                    layout.BackendKey(row.backends, index).pack()))
                targets.setdefault(row.service, set()).add(found[:2])
        self._by_affinity = {
            key: target for key, target in self._by_affinity.items()
            if target in targets.get(key[0], ())}

    def open(self, address, port, protocol):
        """Open a flow, and see that it goes where it may."""
        self._sport += 1
        flow = address, port, NUMBERS[protocol], self._sport
        went = self._send(flow, True)
        self._check(flow, protocol, went)
        if isinstance(went, tuple):
            self.flows[flow] = went
            self._answer(flow, went)
            self._test.assertEqual(went, self._send(flow, False), flow)
        return went

    def again(self, flow):
        """A later packet, which goes where the first one went."""
        self._test.assertEqual(self.flows[flow], self._send(flow, False),
                               flow)
        self._answer(flow, self.flows[flow], False)

    def sweep(self):
        """After it only UDP flows to lost backends begin anew."""
        lost = self._services.lost()
        conntrack.sweep(self._maps, lambda number: True, lost=lost)
        for flow, backend in list(self.flows.items()):
            asked, port, protocol, _ = flow
            itself = backend[0] in (A.v4, A.v6)
            if protocol == p.UDP and lost and not itself and lost(
                    asked, port, protocol, backend):
                del self.flows[flow]
                went = self._send(flow, False)
                self._check(flow, 'UDP', went)
                if isinstance(went, tuple):
                    self.flows[flow] = went
                    self._answer(flow, went)

    def _check(self, flow, protocol, went):
        address, port, number, _ = flow
        allowed = self._truth.ask(address, port, protocol)
        if allowed is None:
            self._test.assertIsNone(went, flow)
        elif not allowed:
            self._test.assertIs(Refused, went, flow)
        else:
            self._test.assertIn(went, allowed, flow)
            row = test_services.find(self._rows, address, port, number)
            if row.affinity:
                key = row.service, frontends.family(address)
                self._test.assertEqual(
                    self._by_affinity.setdefault(key, went), went, flow)

    def _send(self, flow, opening):
        """Where a packet goes: (address, port), None or Refused."""
        address, port, protocol, sport = flow
        mine = A.address(frontends.family(address))
        found = self._run('from_pod', packet(
            mine, address, protocol, sport, port, opening),
            A.mac, bench.ROUTER_MAC)
        source, target, _, dport = found.flow
        if source == address:
            self._test.assertEqual(A.mac, found.dmac)
            return Refused
        if target == address:
            return None
        self._test.assertEqual([], found.wrong_sums())
        mac, network = PODS.get(target, (None, None))
        if target == mine:
            self._test.assertEqual(SELF[frontends.family(address)], source)
        else:
            self._test.assertEqual(mine, source)
            self._test.assertEqual(
                mac if network == 'net' else bench.ROUTER_MAC, found.dmac)
        return target, dport

    def _answer(self, flow, backend, opening=True):
        """The backend answers, and the client sees the service."""
        address, port, protocol, sport = flow
        version = frontends.family(address)
        mine = A.address(version)
        if backend[0] == mine:
            found = self._run('from_pod', packet(
                mine, SELF[version], protocol, backend[1], sport, opening,
                True), A.mac, bench.ROUTER_MAC)
        else:
            found = self._run('to_pod', packet(
                backend[0], mine, protocol, backend[1], sport, opening,
                True), bench.SWITCH_MAC, A.mac)
        self._test.assertEqual((address, mine, port, sport), found.flow)
        self._test.assertEqual([], found.wrong_sums())

    def _run(self, program, data, smac, dmac):
        done = libbpf.test_run(self._bench.programs[program],
                               p.frame(smac, dmac, data),
                               context=bytes(192))
        result = struct.unpack('=i', struct.pack('=I', done.result))[0]
        self._test.assertIn(result, (bench.REDIRECT, bench.PASS),
                            self._bench.drops())
        return p.Parsed(done.data)


class TestFlows(base.TestCase):

    @hypothesis.settings(strategies.SETTINGS, max_examples=EXAMPLES)
    @hypothesis.given(st.data())
    def test_every_packet_of_a_flow(self, data):
        where = data.draw(strategies.places())
        random = data.draw(st.randoms(use_true_random=False))
        with bench.Bench() as bench_:
            run = Run(self, bench_)
            for _time in range(STATES):
                run.become(data.draw(strategies.clusters(where)))
                self._ask(run, random)

    def _ask(self, run, random):
        for flow in list(run.flows):
            if random.random() < 0.3:
                run.again(flow)
        # What nobody has is asked less often.
        served = [question for question in strategies.QUESTIONS
                  if run.open(*question) is not None]
        for question in random.choices(served or strategies.QUESTIONS,
                                       k=FLOWS):
            run.open(*question)
        run.sweep()
        for flow in random.sample(sorted(run.flows), min(
                100, len(run.flows))):
            run.again(flow)
