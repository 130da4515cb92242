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

"""A node with two pods and a switch with a stranger, in namespaces.

The layout is that of a node: a pod's eth0 <-> kc on the node, kq on the node
<-> tap on the switch (a bridge in a namespace of its own).
"""

import contextlib
import functools
import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
import time

import fixtures
from oslo_config import cfg

from kuryr_cilium.conf import datapath as conf
from kuryr_cilium.conf import services as services_conf
from kuryr_cilium.datapath.bpf import driver as bpf
from kuryr_cilium.datapath import driver
from kuryr_cilium.linux import netns
from kuryr_cilium.policy import model
from tests import base

_names = itertools.count()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError('%s: %s' % (' '.join(command), done.stderr))
    return done.stdout


class Place:
    """Somewhere to send from and to receive at."""

    def __init__(self, name, addresses):
        self.name = name
        self.path = '/run/netns/' + name
        self.v4, self.v6 = addresses

    def address(self, family):
        return self.v6 if family == 6 else self.v4

    def run(self, function, *args):
        return netns.run(self.path, function, *args)

    def socket(self, family, kind, port=None):
        sock = self.run(
            socket.socket,
            socket.AF_INET6 if family == 6 else socket.AF_INET, kind)
        if port:
            # Not for ports that the kernel chooses: each is to be its own.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port is not None:
            sock.bind((self.address(family), port))
        return sock


class Pod(Place):
    """A pod of the node."""

    def __init__(self, name, number, uid, network='net'):
        super().__init__(name, ('10.50.0.%d' % (10 + number),
                                'fd50::%x' % (16 + number)))
        self.uid = uid
        self.number = number
        self.kc, self.kq = 'kc%d' % number, 'kq%d' % number
        self.tap = 'tap%d' % number
        self.mac = '02:00:00:00:00:%02x' % number
        self.attachment = driver.Attachment(
            'vif-' + uid, uid, self.kc, self.kq, self.mac,
            (self.v4, self.v6), network, netns=self.path)

    def endpoint(self, ingress, egress, fastpath=False):
        return model.Endpoint(
            self.uid, 'ns', self.uid, 'node', self.attachment.vif_id,
            self.mac, self.attachment.network_id,
            self.attachment.addresses, ingress, egress, fastpath)

    def member(self):
        return model.Member(self.uid, self.attachment.addresses)


class Scene(fixtures.Fixture):
    """The node (namespace), its pods a and b, and a stranger."""

    def _setUp(self):
        prefix = 'kdp%d-%d-' % (os.getpid(), next(_names))
        self.node = Place(prefix + 'node', ('192.0.2.1', 'fd51::1'))
        self.switch = Place(prefix + 'switch', (None, None))
        self.a = Pod(prefix + 'a', 1, 'uid-a')
        self.b = Pod(prefix + 'b', 2, 'uid-b')
        self.stranger = Place(prefix + 'x', ('10.50.0.200', 'fd50::200'))
        self.pods = (self.a, self.b)
        for place in (self.node, self.switch, *self.pods, self.stranger):
            run('ip', 'netns', 'add', place.name)
            self.addCleanup(run, 'ip', 'netns', 'del', place.name)
            self._ip(place, 'link', 'set', 'lo', 'up')
        self._ip(self.switch, 'link', 'add', 'br0', 'type', 'bridge',
                 'mcast_snooping', '0')
        self._ip(self.switch, 'link', 'set', 'br0', 'up')
        self._link(self.stranger, 'x')
        for pod in self.pods:
            self.plug(pod)
        self.bpffs = self._mount()
        self.conf = make_conf(os.path.join(self.bpffs, 'kc'), objects().name)

    def options(self, **options):
        """Set options of the group [services]."""
        for name, value in options.items():
            self.conf.set_override(name, value, 'services')
            # NOTE: the group is shared by all that register it.
            self.addCleanup(self.conf.clear_override, name, 'services')

    def plug(self, pod):
        """Make a pod's links; those on the node stay down."""
        self._ip(self.node, 'link', 'add', pod.kc, 'type', 'veth', 'peer',
                 'name', 'eth0', 'netns', pod.name)
        self._ip(self.node, 'link', 'add', pod.kq, 'type', 'veth', 'peer',
                 'name', pod.tap, 'netns', self.switch.name)
        self._ip(self.switch, 'link', 'set', pod.tap, 'master', 'br0', 'up')
        self._ip(pod, 'link', 'set', 'eth0', 'address', pod.mac)
        self._configure(pod)

    def unplug(self, pod):
        for device in (pod.kc, pod.kq):
            self._ip(self.node, 'link', 'del', device)

    def bring_up(self, pod):
        for device in (pod.kq, pod.kc):
            self._ip(self.node, 'link', 'set', device, 'up')
        for place in (self.node, pod, self.switch):
            settle(place)

    def driver(self):
        """A started driver, as the agent of the node has one."""
        made = bpf.BPFDriver(self.conf)
        self.addCleanup(made.stop)
        addresses = self.node.v4, self.node.v6
        self.node.run(made.start, addresses, addresses)
        return made

    def attach(self, made, *pods):
        for pod in pods:
            self.node.run(made.attach, pod.attachment)
            self.bring_up(pod)

    def _ip(self, place, *arguments):
        run('ip', '-n', place.name, *arguments)

    def _link(self, place, name):
        self._ip(self.switch, 'link', 'add', name, 'type', 'veth', 'peer',
                 'name', 'eth0', 'netns', place.name)
        self._ip(self.switch, 'link', 'set', name, 'master', 'br0', 'up')
        self._configure(place)

    def _configure(self, place):
        self._ip(place, 'addr', 'add', place.v4 + '/24', 'dev', 'eth0')
        self._ip(place, 'addr', 'add', place.v6 + '/64', 'dev', 'eth0',
                 'nodad')
        self._ip(place, 'link', 'set', 'eth0', 'up')

    def _mount(self):
        path = tempfile.mkdtemp(prefix='kdp-bpffs-')
        self.addCleanup(os.rmdir, path)
        run('mount', '-t', 'bpf', 'kdp', path)
        self.addCleanup(run, 'umount', path)
        return path


def settle(place):
    """Wait until the links of a place whose peers are up carry packets.

    Who was up first learns of the carrier later; what it sends till then is
    dropped.
    """
    def late():
        return [link['ifname'] for link in json.loads(
            run('ip', '-n', place.name, '-j', 'link', 'show', 'up'))
            if 'LOWER_UP' in link.get('flags', ())
            and link['operstate'] != 'UP' and link['ifname'] != 'lo']
    base.wait_until(lambda: not late(), 10, late)


@functools.cache
def objects():
    """A folder for compiled programs, until the process ends."""
    return tempfile.TemporaryDirectory(prefix='kdp-objects-')


def make_conf(pin_dir, cache_dir):
    made = cfg.ConfigOpts()
    conf.register_opts(made)
    services_conf.register_opts(made)
    made([])
    made.set_override('pin_dir', pin_dir, 'datapath')
    made.set_override('cache_dir', cache_dir, 'datapath')
    made.set_override('event_rate', 100000, 'datapath')
    return made


def allow(*peers, ports=None, direction=model.Direction.INGRESS):
    """A ruleset that allows (protocol, port) from selectors; none: all."""
    groups = (model.RuleGroup(
        model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
        frozenset(peers) or None,
        frozenset(model.PortRange(protocol, port, port)
                  for protocol, port in ports) if ports else None),)
    name = 'allow %s %s' % (' '.join(peers), ports)
    return model.RuleSet(name, direction, groups,
                         (('NetworkPolicy/ns/' + name,),))


def view(endpoints, rulesets=(), selectors=None):
    """A view.

    :param selectors: id -> pods.
    """
    return model.View(
        1, True, {endpoint.uid: endpoint for endpoint in endpoints},
        {ruleset.id: ruleset for ruleset in rulesets},
        {name: model.Selector(name, name, tuple(
            pod.member() for pod in pods))
         for name, pods in (selectors or {}).items()})


class Echo:
    """Sends UDP datagrams back, and remembers whose; a context manager."""

    def __init__(self, place, family, port):
        self._socket = place.socket(family, socket.SOCK_DGRAM, port)
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self.received = []
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _work(self):
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, peer = self._socket.recvfrom(2048)
                self.received.append((peer[0], data))
                self._socket.sendto(data, peer)


class Stream:
    """Numbered datagrams to an Echo, one a millisecond, until it is left.

    :ivar sent: how many were sent.
    :ivar answered: numbers that came back.
    """

    def __init__(self, place, family, peer, port, source=None):
        self._socket = place.socket(family, socket.SOCK_DGRAM, source or 0)
        self._socket.setblocking(False)
        self._peer = peer.address(family), port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.sent = 0
        self.answered = set()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self.stop()
        self._socket.close()

    def stop(self):
        self._stop.set()
        self._thread.join()

    def flows(self, count=20):
        """Wait until count more answers have come."""
        goal = len(self.answered) + count
        base.wait_until(lambda: len(self.answered) >= goal, 10,
                        lambda: '%d answers, %d of %d' % (
                            count, len(self.answered), self.sent))

    def lost(self):
        """Stop, and the numbers that never came back."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(AssertionError):
            base.wait_until(self._drained, 2)
        return sorted(set(range(self.sent)) - self.answered)

    def _drained(self):
        self._receive()
        return len(self.answered) == self.sent

    def _work(self):
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                self._socket.sendto(b'%d' % self.sent, self._peer)
                self.sent += 1
            self._receive()
            self._stop.wait(0.001)

    def _receive(self):
        with contextlib.suppress(OSError):
            while True:
                self.answered.add(int(self._socket.recv(64)))


def connect(place, family, peer, port, timeout=5.0):
    """A TCP connection.

    NOTE: its port is chosen before its peer is known: to another address of
    the same server the kernel may use one twice.
    """
    sock = place.socket(family, socket.SOCK_STREAM, 0)
    sock.settimeout(timeout)
    try:
        sock.connect((peer.address(family), port))
    except BaseException:
        sock.close()
        raise
    return sock


class Server:
    """Accepts TCP connections and sends back; a context manager."""

    def __init__(self, place, family, port):
        self._socket = place.socket(family, socket.SOCK_STREAM, port)
        self._socket.listen()
        self._threads = []
        self._stop = threading.Event()

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _start(self, *target):
        thread = threading.Thread(target=target[0], args=target[1:],
                                  daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        self._socket.settimeout(0.1)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self._start(self._serve, self._socket.accept()[0])

    def _serve(self, sock):
        sock.settimeout(0.1)
        with sock:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    try:
                        data = sock.recv(2048)
                    except ConnectionError:
                        return
                    if not data:
                        return
                    sock.sendall(data)


def answers(sock, data=b'x', timeout=5.0):
    """Whether what is sent comes back."""
    sock.settimeout(timeout)
    sock.sendall(data)
    deadline = time.monotonic() + timeout
    found = b''
    with contextlib.suppress(TimeoutError):
        while len(found) < len(data) and time.monotonic() < deadline:
            found += sock.recv(2048)
    return found == data


def standard_view(a, b, fastpath=False):
    """Pod a may send to port 7 of pod b; nobody else may, nor elsewhere."""
    ruleset = allow('sel-a', ports=((17, 7), (6, 7)))
    return view(
        (a.endpoint(model.ALLOW_ALL, model.ALLOW_ALL, fastpath),
         b.endpoint(ruleset.id, model.ALLOW_ALL, fastpath)),
        (ruleset,), {'sel-a': (a,)})
