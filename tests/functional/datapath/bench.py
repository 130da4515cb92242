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

"""The programs on a bench: their maps, and packets one by one.

Nothing is attached: BPF_PROG_TEST_RUN runs a program on a frame, and what it
makes of it is read from its result and its maps. Pod A is the one whose links
the frames are on; B is its neighbour on the node.
"""

import functools
import os
import struct
import tempfile
import time

import fixtures

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.datapath.bpf import rows
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.policy import compile as compiler
from kuryr_cilium.policy import entities
from tests import base
from tests.functional.datapath import packets

PASS, DROP, REDIRECT = -1, 2, 7
#: Counted as dropped, but the sender is told.
REFUSED = 'refused'

SPACES = {4: 40, 6: 60}
NETWORK = 9
EPOCH = 5

#: Of the loopback device, on which test packets are.
_LOOPBACK = 1
_SKB_SIZE = 192
_INGRESS_IFINDEX = 36


class Pod:
    """An endpoint."""

    def __init__(self, number, ifindex):
        self.number = number
        self.kc = self.kq = ifindex
        self.mac = '02:00:00:00:00:%02x' % number
        self.v4 = '10.0.0.%d' % number
        self.v6 = 'fd00::%x' % number
        self.link_local = 'fe80::ff:fe00:%x' % number

    def address(self, family):
        return self.v6 if family == 6 else self.v4


A = Pod(1, _LOOPBACK)
B = Pod(2, 1002)

#: Somebody beyond the switch, and the router to everybody else.
PEER = {4: '10.9.0.1', 6: 'fd09::1'}
OTHER = {4: '10.9.0.2', 6: 'fd09::2'}
NODE = {4: '192.0.2.1', 6: 'fd51::1'}
GROUP = {4: '224.0.0.251', 6: 'ff02::fb'}
ROUTER_MAC = '02:00:00:00:00:fe'
SWITCH_MAC = '02:00:00:00:00:fd'


def now():
    """The clock of the programs, in nanoseconds."""
    return time.monotonic_ns()


@functools.lru_cache
def compiled():
    """The bytes of the object, compiled once a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, loader.OBJECT)
        loader.compile_object(path)
        with open(path, 'rb') as stream:
            return stream.read()


class Bench(fixtures.Fixture):
    """Programs with maps of their own.

    :ivar summed: packets come as from a network card that sums them up, and
        the kernel fails a run that leaves them with another sum. Not for what
        the program cuts: it has no sum then, which that check does not know.
    """

    def __init__(self, sizes=None):
        self._sizes = sizes or {}
        self.summed = True

    def _setUp(self):
        with tempfile.NamedTemporaryFile(suffix='.o') as stream:
            stream.write(compiled())
            stream.flush()
            self.object = libbpf.Object(stream.name, 1 << 20)
        self.addCleanup(self.object.close)
        for name, size in self._sizes.items():
            self.object.resize(self._name(name), size)
        self.object.load()
        self.maps = self.object.map_fds()
        self.programs = self.object.program_fds()
        self.events = []
        ring = libbpf.RingBuffer(
            self.maps['kc_events_v1'],
            lambda data: self.events.append(layout.Event.unpack(data)))
        self.addCleanup(ring.close)
        self._ring = ring
        self.set_meta(layout.Meta.EPOCH, EPOCH)
        self.set_meta(layout.Meta.EVENT_RATE, 1 << 20)
        self.update('kc_if', layout.U32.pack(A.kc),
                    layout.U32.pack(A.number))
        self.endpoint(A)
        self.endpoint(B)
        for version, address in NODE.items():
            self.peer(address, entities.Entity.HOST)

    # Maps

    def _name(self, name):
        return name + '_v%d' % layout.VERSION

    def fd(self, name):
        return self.maps[self._name(name)]

    def update(self, name, key, value):
        libbpf.map_update(self.fd(name), key, value)

    def set_meta(self, index, value):
        self.update('kc_meta', layout.U32.pack(index),
                    layout.U64.pack(value))

    def next_epoch(self):
        """Declare every connection's verdict void."""
        epoch = layout.U64.unpack(libbpf.map_lookup(
            self.fd('kc_meta'), layout.U32.pack(layout.Meta.EPOCH)))[0] + 1
        self.set_meta(layout.Meta.EPOCH, epoch)

    def endpoint(self, pod, ingress=rows.RULESET_ALLOW,
                 egress=rows.RULESET_ALLOW, fastpath=False, network=NETWORK,
                 gateways=(ROUTER_MAC,)):
        """Write an endpoint, and where it is if its neighbours may know."""
        self.update('kc_endpoint', layout.U32.pack(pod.number),
                    layout.Endpoint(
                        SPACES[4], SPACES[6], ingress, egress, pod.kc, pod.kq,
                        network, int(fastpath), pod.mac, gateways,
                        (pod.v4, pod.v6)).pack())
        if fastpath:
            for version, space in SPACES.items():
                self.update(
                    'kc_local',
                    layout.AddrKey(space, pod.address(version)).pack(),
                    layout.Local(pod.number, pod.kc, pod.mac).pack())

    def peer(self, address, entity, number=None):
        """Say what is behind an address; a number is its class."""
        self.update(
            'kc_addr',
            layout.AddrKey(SPACES[packets.family(address)], address).pack(),
            layout.Peer(number or int(entity), int(entity)).pack())

    def cidr(self, network, number, entity=entities.Entity.WORLD):
        version = 6 if ':' in network else 4
        self.update('kc_cidr', layout.CidrKey(SPACES[version],
                                              network).pack(),
                    layout.Peer(number, int(entity)).pack())

    def ruleset(self, number, table, classes=None):
        """Write a compiled ruleset.

        :param classes: number -> (selector ids, entity).
        """
        writes = list(rows.ruleset_rows(number, table))
        for class_, (selectors, entity) in (classes or {}).items():
            if table.needs_row(selectors, entity):
                writes += rows.peer_rows(
                    number, class_, table.peer_bits(selectors, entity))
        for write in writes:
            self.write(write)

    def write(self, write):
        key, value = write.key, write.value
        if write.table == rows.PORT:
            any_ = key.port == compiler.ANY_PORT
            key = layout.RsPortKey(
                layout.PORT_ANY if any_ else
                layout.PORT_PROTOCOL + key.port.length, key.ruleset, key.page,
                key.port.protocol or 0, key.port.port)
        elif write.table == rows.PEER:
            key = layout.RsPeerKey(*key)
        else:
            key = layout.RsGroupKey(*key)
        if write.table == rows.GROUP:
            value = layout.RsGroup(
                layout.Verdict[value.verdict.upper()], 0, value.next_tier,
                value.l7set, 0)
        else:
            value = layout.Bits(value.words, value.mask)
        self.update(write.table, key.pack(), value.pack())

    def connections(self, pod=A, table='kc_ct'):
        """Entries of an endpoint by key, without rows that are left behind."""
        found = {}
        for key, value in libbpf.map_items(self.fd(table)):
            key, entry = layout.CtKey.unpack(key), layout.Ct.unpack(value)
            if key.endpoint == pod.number and not (
                    entry.flags & layout.CtFlag.OPEN):
                found[key] = entry
        return found

    def age(self, seconds, table='kc_ct'):
        """Make every entry's last packet older."""
        for key, value in list(libbpf.map_items(self.fd(table))):
            entry = layout.Ct.unpack(value)
            # Before the machine was started, if need be.
            last = now() - int(seconds * 1e9)
            entry = entry._replace(last=last % (1 << 64))
            self.update(table, key, entry.pack())

    def age_affinity(self, seconds):
        """Make it longer ago that clients had their backends."""
        for key, value in list(libbpf.map_items(self.fd('kc_affinity'))):
            last = (now() - int(seconds * 1e9)) % (1 << 64)
            self.update('kc_affinity', key,
                        service_rows.Affinity.unpack(value)._replace(
                            last=last).pack())

    def drops(self):
        """Drops by reason, of all CPUs."""
        found = {}
        for reason in layout.Reason:
            value = libbpf.map_lookup(self.fd('kc_drops'),
                                      layout.U32.pack(reason))
            count = sum(number[0]
                        for number in layout.U64.iter_unpack(value))
            if count:
                found[reason] = count
        return found

    # Packets

    def run(self, program, data, ingress_ifindex=0):
        """Run a program on a frame.

        :returns: PASS or REDIRECT, or a layout.Reason if it was dropped.
        """
        context = bytearray(_SKB_SIZE)
        struct.pack_into('=I', context, _INGRESS_IFINDEX, ingress_ifindex)
        before = self.drops()
        done = libbpf.test_run(self.programs[program], data,
                               context=bytes(context),
                               flags=self.summed
                               and libbpf.TEST_CHECKSUM_COMPLETE)
        result = struct.unpack('=i', struct.pack('=I', done.result))[0]
        self.frame = done.data
        dropped = [reason for reason, count in self.drops().items()
                   if count != before.get(reason, 0)]
        if result == REDIRECT and dropped == [layout.Reason.NO_BACKEND]:
            return REFUSED
        if result != DROP:
            assert not dropped, dropped
            return result
        assert len(dropped) == 1, dropped
        return dropped[0]

    def from_pod(self, packet, smac=A.mac, dmac=ROUTER_MAC):
        """An IP packet that pod A sends."""
        return self.run('from_pod', packets.frame(smac, dmac, packet))

    def to_pod(self, packet, dmac=A.mac):
        """An IP packet that the switch sends to pod A."""
        return self.run('to_pod', packets.frame(SWITCH_MAC, dmac, packet))

    def from_host(self, packet, ingress_ifindex=0):
        """An IP packet that the host's stack routes to pod A."""
        return self.run('from_host',
                        packets.frame(SWITCH_MAC, A.mac, packet),
                        ingress_ifindex)

    def told(self):
        """Events since the last call."""
        self._ring.poll(0)
        events, self.events[:] = self.events[:], []
        return events


class Case(base.TestCase):
    """A test with a bench: packets out of and into pod A."""

    def setUp(self):
        super().setUp()
        self.bench = self.useFixture(Bench())

    def out(self, packet, **frame):
        return self.bench.from_pod(packet, **frame)

    def into(self, packet, **frame):
        return self.bench.to_pod(packet, **frame)

    def raw(self, data, program='from_pod'):
        return self.bench.run(program, data)

    def assertOut(self, expected, packet, **frame):
        self.assertEqual(expected, self.out(packet, **frame), packet.hex())

    def assertInto(self, expected, packet, **frame):
        self.assertEqual(expected, self.into(packet, **frame), packet.hex())
