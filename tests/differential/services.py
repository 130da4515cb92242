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

The services are brought in force in real maps, packets go through the loaded
programs (BPF_PROG_TEST_RUN), and the oracle says who may get them. Pod A of a
bench is the client, and at times its own backend.
"""

import dataclasses
import json
import random
import struct
from typing import Optional

from hypothesis import strategies as st

from kuryr_cilium.datapath.bpf import conntrack
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import maps as maps_
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.datapath.bpf import services
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import model
from kuryr_cilium.lb import services as lb_services
from kuryr_cilium.policy import entities
from tests.differential import search
from tests.functional.datapath import bench
from tests.functional.datapath import packets as p
from tests.functional.datapath import test_programs_services as programs
from tests.unit.lb import oracle
from tests.unit.lb import strategies
from tests.unit.lb import test_services

A, SELF = bench.A, programs.SELF
NUMBERS = lb_services.PROTOCOLS
#: In A's network, and in another one.
PODS = {'10.0.0.3': ('02:00:00:00:07:03', 'net'),
        'fd00::3': ('02:00:00:00:07:03', 'net'),
        '10.0.0.4': ('02:00:00:00:07:04', 'other')}
NETWORKS = {'net': bench.NETWORK, 'other': bench.NETWORK + 1}
NODE_PORTS = (30000, 32767)

#: Flows that are opened in each state to what somebody serves.
FLOWS = 200
#: Of how many flows another packet follows at the end of a state.
AGAIN = 100


class _Enough(Exception):
    """Ends a case."""


class Refused:
    """What becomes of a packet that nobody may have."""


class Difference(AssertionError):
    """A packet went where the oracle does not send it.

    :ivar question: address, port and protocol that it asked.
    """

    def __init__(self, question, message):
        super().__init__(message)
        self.question = question


@dataclasses.dataclass
class Count:
    """How much was compared.

    :ivar decisions: packets that went where they may.
    :ivar between: those of them in the middle of a change.
    :ivar limit: no more decisions than this; None: all.
    """

    decisions: int = 0
    between: int = 0
    states: int = 0
    limit: Optional[int] = None

    @property
    def full(self):
        return self.limit is not None and self.decisions >= self.limit


@dataclasses.dataclass
class Case:
    """What becomes of a cluster's services.

    :ivar states: (services, slices, whether the agent starts anew).
    """

    states: list

    def dumps(self):
        return json.dumps(dataclasses.asdict(self), indent=1,
                          sort_keys=True) + '\n'


def loads(text):
    """The case of a JSON text."""
    return Case([tuple(state) for state in json.loads(text)['states']])


@st.composite
def cases(draw):
    """Random cases."""
    where = draw(strategies.places())
    return Case([(*draw(strategies.clusters(where)),
                  not draw(st.integers(0, 3)))
                 for _ in range(draw(st.integers(1, 4)))])


def find(seed, decisions, progress=None):
    """A search.Search for differences about services."""
    def run(case, salt, count, question):
        check(case, salt, count, question)

    return search.Search(seed, Count(limit=decisions), cases(), run,
                         progress)


def check(case, seed=0, count=None, only=None, truth=oracle.Cluster):
    """Compare the states of a case, one after the other.

    :param only: the one (address, port, protocol) that is asked.
    :param truth: makes the oracle.
    :raises: Difference
    """
    count = count or Count()
    with bench.Bench() as bench_:
        run = Run(bench_, count, random.Random(seed), truth,
                  strategies.QUESTIONS if only is None else (only,))
        try:
            for state in case.states:
                run.state(*state)
                count.states += 1
        except _Enough:
            pass


def packet(source, target, protocol, sport, dport, opening, answer=False):
    if protocol == p.SCTP:
        chunk = (2 if answer else 1) if opening else 0
        return p.ip(source, target, p.SCTP, p.sctp(sport, dport, chunk))
    flags = p.ACK if answer or not opening else 0
    return programs.l4(source, target, protocol, sport, dport,
                       flags | (p.SYN if opening else 0))


class Watched(services.Services):
    """Writes row by row, and calls ``after`` after each."""

    after = None

    def _batched(self, table, rows, work):
        if self.after is None:
            super()._batched(table, rows, work)
            return
        for row in rows:
            super()._batched(table, [row], work)
            self.after(table)


class Run:
    """Services on a bench, and the flows of its pod.

    :param questions: what may be asked: (address, port, protocol).
    """

    def __init__(self, bench_, count, chosen, truth, questions):
        self._bench = bench_
        self._count = count
        self._chosen = chosen
        self._truth = truth
        self._questions = questions
        self._maps = maps_.Maps(bench_.maps)
        self._start()
        for address in strategies.NODES:
            if address not in bench.NODE.values():
                bench_.peer(address, entities.Entity.REMOTE_NODE)
        # (asked, port, protocol, sport) -> backend, of open flows.
        self._flows = {}
        # (Row.service, family) -> the backend that the client has.
        self._by_affinity = {}
        self._sport = 1024
        self._allowed = None

    def state(self, found, slices, anew):
        """Bring services in force, and see where packets go.

        :param anew: by a process that has just started.
        """
        if anew:
            self._start()
        self._become(found, slices)
        for flow in list(self._flows):
            if self._chosen.random() < 0.3:
                self._again(flow)
        # What nobody has is asked less often.
        served = [question for question in self._questions
                  if self._open(*question) is not None]
        for question in self._chosen.choices(
                served or self._questions, k=FLOWS):
            self._open(*question)
        self._sweep()
        for flow in self._chosen.sample(sorted(self._flows), min(
                AGAIN, len(self._flows))):
            self._again(flow)

    def _start(self):
        self._services = Watched(
            self._maps, writer.Writer(self._maps), NETWORKS.get,
            (SELF[4], SELF[6]), NODE_PORTS)

    def _become(self, found, slices):
        truth = self._truth(found, slices, strategies.NODE, strategies.ZONE,
                            strategies.NODES)
        made = lb_services.Services(PODS.get)
        for obj in found:
            made.set_service(obj)
        for obj in slices:
            made.set_slice(obj)
        before = self._allowed
        now = {question: truth.ask(*question)
               for question in self._questions}
        if before is not None:
            asked = [question for question in self._questions
                     if before[question] or now[question]]
            self._services.after = lambda table: self._between((
                self._chosen.choice(asked or self._questions),
                self._chosen.choice(self._questions)), before, now, table)
        refused = self._services.update(
            made.services, model.Node(strategies.NODE, strategies.ZONE),
            frozenset(strategies.NODES))
        self._services.after = None
        self._same({}, refused, None, 'refused')
        self._allowed = now
        self._rows = {key: row for key, row
                      in self._services.table.rows.items() if row.count}
        targets = {}
        for row in self._rows.values():
            for index in range(row.count):
                target = service_rows.Backend.unpack(libbpf.map_lookup(
                    self._bench.fd('kc_backend'),
                    service_rows.BackendKey(row.backends, index).pack()))
                targets.setdefault(row.service, set()).add(target[:2])
        self._by_affinity = {
            key: target for key, target in self._by_affinity.items()
            if target in targets.get(key[0], ())}

    def _between(self, questions, before, now, table):
        """In the middle of a change either is right; what is open stays."""
        for question in questions:
            flow, went = self._begin(*question)
            if not any(_may(went, allowed[question])
                       for allowed in (before, now)):
                raise Difference(question, '%s after a write to %s: to %s, '
                                 'and not to %s or %s' % (
                                     flow, table, went, before[question],
                                     now[question]))
            self._go_on(flow, went, True)
        if self._flows:
            self._again(self._chosen.choice(list(self._flows)), True)

    def _open(self, *question):
        """Open a flow, and see that it goes where it may."""
        flow, went = self._begin(*question)
        self._check(flow, question, went)
        self._go_on(flow, went)
        return went

    def _begin(self, address, port, protocol):
        self._sport += 1
        flow = address, port, NUMBERS[protocol], self._sport
        return flow, self._send(flow, True)

    def _decided(self, between=False):
        self._count.decisions += 1
        self._count.between += between
        if self._count.full:
            raise _Enough

    def _go_on(self, flow, went, between=False):
        self._decided(between)
        if isinstance(went, tuple):
            self._flows[flow] = went
            self._answer(flow, went)
            self._same(went, self._send(flow, False), flow,
                       'its second packet')
            self._decided(between)

    def _again(self, flow, between=False):
        """A later packet, which goes where the first one went."""
        self._same(self._flows[flow], self._send(flow, False), flow,
                   'a later packet')
        self._answer(flow, self._flows[flow], False)
        self._decided(between)

    def _sweep(self):
        """After it only UDP flows to lost backends begin anew."""
        lost = self._services.lost()
        conntrack.sweep(self._maps, lambda number: True, lost=lost)
        for flow, backend in list(self._flows.items()):
            asked, port, protocol, _ = flow
            itself = backend[0] in (A.v4, A.v6)
            if protocol == p.UDP and lost and not itself and lost(
                    asked, port, protocol, backend):
                del self._flows[flow]
                went = self._send(flow, False)
                self._check(flow, (asked, port, 'UDP'), went)
                self._go_on(flow, went)

    def _check(self, flow, question, went):
        allowed = self._allowed[question]
        if not _may(went, allowed):
            raise Difference(question, '%s: to %s, and not to %s' % (
                flow, went, allowed))
        row = test_services.find(self._rows, *flow[:3])
        if isinstance(went, tuple) and row is not None and row.affinity:
            key = row.service, frontends.family(flow[0])
            self._same(self._by_affinity.setdefault(key, went), went, flow,
                       'by affinity')

    def _send(self, flow, opening):
        """Where a packet goes: (address, port), None or Refused."""
        address, port, protocol, sport = flow
        mine = A.address(frontends.family(address))
        found = self._run(flow, 'from_pod', packet(
            mine, address, protocol, sport, port, opening),
            A.mac, bench.ROUTER_MAC)
        source, target, _, dport = found.flow
        if source == address:
            self._same(A.mac, found.dmac, flow, 'who is refused')
            return Refused
        if target == address:
            return None
        self._same([], found.wrong_sums(), flow, 'checksums')
        mac, network = PODS.get(target, (None, None))
        if target == mine:
            self._same(SELF[frontends.family(address)], source, flow,
                       'as whom it sees itself')
        else:
            self._same(mine, source, flow, 'its source')
            self._same(mac if network == 'net' else bench.ROUTER_MAC,
                       found.dmac, flow, 'the way to its backend')
        return target, dport

    def _answer(self, flow, backend, opening=True):
        """The backend answers, and the client sees the service."""
        address, port, protocol, sport = flow
        version = frontends.family(address)
        mine = A.address(version)
        if backend[0] == mine:
            found = self._run(flow, 'from_pod', packet(
                mine, SELF[version], protocol, backend[1], sport, opening,
                True), A.mac, bench.ROUTER_MAC)
        else:
            found = self._run(flow, 'to_pod', packet(
                backend[0], mine, protocol, backend[1], sport, opening,
                True), bench.SWITCH_MAC, A.mac)
        self._same((address, mine, port, sport), found.flow, flow,
                   'its answer')
        self._same([], found.wrong_sums(), flow, 'checksums of its answer')

    def _run(self, flow, program, data, smac, dmac):
        done = libbpf.test_run(self._bench.programs[program],
                               p.frame(smac, dmac, data),
                               context=bytes(192))
        result = struct.unpack('=i', struct.pack('=I', done.result))[0]
        if result not in (bench.REDIRECT, bench.PASS):
            raise Difference(_question(flow), '%s is dropped by %s: %s' % (
                flow, program, self._bench.drops()))
        return p.Parsed(done.data)

    def _same(self, expected, found, flow, what):
        if found != expected:
            raise Difference(_question(flow), '%s, %s: %s, and not %s' % (
                flow, what, found, expected))


def _may(went, allowed):
    """Whether a packet may go somewhere, by an answer of the oracle."""
    if allowed is None:
        return went is None
    return went in allowed if allowed else went is Refused


def _question(flow):
    if flow is None:
        return None
    names = {number: name for name, number in NUMBERS.items()}
    return (*flow[:2], names[flow[2]])
