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

"""The loaded programs: real maps, written by the real driver.

A node here is a driver with maps of its own. Its pods' links are devices of
one network namespace; nothing is sent on them: BPF_PROG_TEST_RUN runs the
programs on frames as if they had come in there.
"""

import contextlib
import itertools
import os
import queue
import struct
import subprocess
import tempfile
import threading
from unittest import mock

from kuryr_cilium.datapath.bpf import driver as bpf
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import links
from kuryr_cilium.datapath.bpf import loader
from kuryr_cilium.datapath.bpf import plan
from kuryr_cilium.datapath.bpf import writer
from kuryr_cilium.datapath import driver
from kuryr_cilium.linux import netns
from kuryr_cilium.policy import model
from tests.differential import questions
from tests.differential import reader
from tests.functional.datapath import bench
from tests.functional.datapath import packets
from tests.functional.datapath import scene

_SLOTS = 12
_SKB_SIZE = 192
_INGRESS_IFINDEX, _IFINDEX = 36, 40
_NODE_MAC = '02:00:00:00:00:fd'
_POLICY = (layout.Reason.POLICY, layout.Reason.POLICY_DENY)
_SPORTS = itertools.cycle(range(20000, 60000))


class _Writer(writer.Writer):
    """Tells after each step of a plan."""

    def __init__(self, maps):
        super().__init__(maps)
        self.after_step = None

    def carry_out(self, planned):
        for step in planned.walk():
            super().carry_out(plan.Plan((step,), planned.denied))
            if self.after_step is not None and step.writes:
                self.after_step(step.phase)


class _Links(links.Links):
    """Knows the devices of interfaces, and attaches nothing to them.

    No packet comes in on them, and to detach waits for the kernel.
    """

    def __init__(self, folder, programs, *more):
        super().__init__(folder, programs, *more)
        self._by_vif = {}

    def attach(self, vif_id, found):
        self._by_vif[vif_id] = found

    def detach(self, vif_id):
        del self._by_vif[vif_id]

    def devices(self, vif_id):
        return self._kind(*(0 for _ in self._kind._fields))


class Namespace:
    """A network namespace, and a thread in it that does what it is told."""

    def __init__(self):
        self.name = 'kdiff-%d' % os.getpid()
        self._calls = queue.Queue()
        scene.run('ip', 'netns', 'add', self.name)
        self._thread = threading.Thread(
            target=netns.run, args=('/run/netns/' + self.name, self._work),
            daemon=True)
        self._thread.start()

    def add(self, devices):
        """Make pairs of devices, named with c and q at the end."""
        batch = 'link set lo up\n' + ''.join(
            'link add %sc type veth peer name %sq\n' % (device, device)
            for device in devices)
        subprocess.run(['ip', '-n', self.name, '-batch', '-'],
                       input=batch.encode(), check=True)

    def close(self):
        self._calls.put(None)
        self._thread.join()
        scene.run('ip', 'netns', 'del', self.name)

    def call(self, function, *args):
        """Call a function there; returns and raises what it does."""
        answer = queue.Queue()
        self._calls.put((function, args, answer))
        value, error = answer.get()
        if error is not None:
            raise error
        return value

    def _work(self):
        while (item := self._calls.get()) is not None:
            function, args, answer = item
            try:
                answer.put((function(*args), None))
            except BaseException as error:
                answer.put((None, error))


class Node:
    """A driver in force, with the pods of one node."""

    def __init__(self, conf, own, prefix):
        self._driver = bpf.BPFDriver(conf)
        self._own = own
        self._free = ['%s%d' % (prefix, number) for number in range(_SLOTS)]
        self._devices = {}
        self._attached = {}
        self._numbers = {}
        self._asked = set()
        self._drops = None

    def start(self):
        self._driver.start(self._own)
        self._driver._writer = _Writer(self._driver._maps)
        self._driver._planner = plan.Planner(
            self._driver._writer.allocate, self._driver._limits)
        self._programs = self._driver._loaded.programs

    def stop(self):
        self._driver.stop()

    def reset(self):
        """Forget everything: the next case has pods of the same UIDs."""
        self.apply(model.View(1, True, {}, {}, {}))
        # A case that differed did not come to ask for those of its own.
        self._drops = self._driver._maps.drops()

    def apply(self, view, after_step=None):
        """Bring a view in force, then plug and unplug its pods."""
        self._driver._writer.after_step = after_step
        applied = self._driver.apply(view)
        self._driver._writer.after_step = None
        assert not applied.denied, applied.denied
        for uid in self._attached.keys() - view.endpoints.keys():
            self._driver.detach(self._attached[uid].vif_id)
            self._free.append(self._devices.pop(uid))
            del self._attached[uid]
        for uid, endpoint in view.endpoints.items():
            if uid in self._attached:
                continue
            device = self._free.pop()
            self._devices[uid] = device
            self._attached[uid] = driver.Attachment(
                endpoint.vif_id, uid, device + 'c', device + 'q',
                endpoint.mac, endpoint.addresses, endpoint.network_id)
            self._driver.attach(self._attached[uid])
            self._driver.activate(endpoint.vif_id)
        self._numbers = {
            uid: self._driver._locals[attachment.vif_id]
            for uid, attachment in self._attached.items()}

    def knows(self, uid):
        return uid in self._numbers

    def judge(self, question):
        """What the program makes of a frame."""
        local = self._numbers[question.uid]
        source, target = question.address, question.peer
        if question.direction == questions.INGRESS:
            source, target = target, source
        packet = _packet(source, target, question.protocol, question.port)
        if question.protocol in (questions.GRE, questions.ICMP,
                                 questions.ICMPV6):
            self._forget_connection(local.number, question)
        device = local.kc
        if question.direction == questions.EGRESS:
            name = 'from_pod'
            data = packets.frame(local.mac, bench.ROUTER_MAC, packet)
        elif question.peer in self._own:
            name = 'from_host'
            data = packets.frame(_NODE_MAC, local.mac, packet)
        else:
            name, device = 'to_pod', local.kq
            data = packets.frame(bench.SWITCH_MAC, local.mac, packet)
        context = bytearray(_SKB_SIZE)
        struct.pack_into('=I', context, _INGRESS_IFINDEX, 0)
        struct.pack_into('=I', context, _IFINDEX, device)
        done = libbpf.test_run(self._programs[name], data,
                               context=bytes(context))
        result = struct.unpack('=i', struct.pack('=I', done.result))[0]
        return reader.Read(result != bench.DROP)

    def check_drops(self):
        """Nothing was dropped for another reason than policy."""
        drops = self._driver._maps.drops()
        if self._drops is not None:
            strange = {reason.text: count - self._drops[reason]
                       for reason, count in drops.items()
                       if count != self._drops[reason]
                       and reason not in _POLICY}
            assert not strange, strange
        self._drops = drops

    def _forget_connection(self, number, question):
        """Make sure that no connection answers for it.

        What has ports has a new one each time; without ports an earlier
        packet may have opened the same connection, or its other direction.
        """
        asked = number, question.protocol, question.peer, question.port
        if asked in self._asked:
            for table in ('kc_ct', 'kc_ct_new'):
                fd = self._driver._maps.fd(table)
                keys = [key for key, _ in libbpf.map_items(fd)]
                if keys:
                    libbpf.map_delete_batch(fd, b''.join(keys), len(keys))
            self._asked.clear()
        self._asked.add(asked)


@contextlib.contextmanager
def nodes(own_addresses):
    """Nodes with programs and maps of their own.

    No packet is under way while a plan is carried out here, so nobody waits
    for any.

    :param own_addresses: name of a node -> its addresses.
    """
    with contextlib.ExitStack() as stack:
        prefixes = {name: 'kd%dx' % place
                    for place, name in enumerate(own_addresses)}
        place = Namespace()
        stack.callback(place.close)
        place.add('%s%d' % (prefix, number) for prefix in prefixes.values()
                  for number in range(_SLOTS))
        stack.enter_context(mock.patch.object(writer, 'wait_for_packets'))
        stack.enter_context(mock.patch.object(links, 'Links', _Links))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(folder, 'bpf')
        os.mkdir(path)
        scene.run('mount', '-t', 'bpf', 'kdiff', path)
        stack.callback(scene.run, 'umount', path)
        loader.compile_object(os.path.join(folder, loader.OBJECT))
        made = {}
        for name, own in own_addresses.items():
            conf = scene.make_conf(os.path.join(path, name), folder)
            conf.set_override('object_file',
                              os.path.join(folder, loader.OBJECT),
                              'datapath')
            conf.set_override('event_rate', 1, 'datapath')
            made[name] = Node(conf, own, prefixes[name])
            place.call(made[name].start)
            stack.callback(place.call, made[name].stop)
        yield place, made


def _packet(source, target, protocol, port):
    """An opening packet from a port that was not used lately."""
    sport = next(_SPORTS)
    if protocol == questions.TCP:
        payload = packets.tcp(sport, port)
    elif protocol == questions.UDP:
        payload = packets.udp(sport, port)
    elif protocol == questions.SCTP:
        payload = packets.sctp(sport, port)
    elif protocol == questions.ICMP:
        payload = packets.icmp(port >> 8, port & 255, struct.pack(
            '>HH', sport, 1))
    elif protocol == questions.ICMPV6:
        payload = packets.icmp6(source, target, port >> 8, port & 255,
                                struct.pack('>HH', sport, 1))
    else:
        payload = bytes(8)
    return packets.ip(source, target, protocol, payload)
