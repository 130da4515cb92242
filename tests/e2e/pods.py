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

"""A pod of the lab, and the network as a process in it sees it.

The tests open sockets in a pod's network namespace and use them from here:
to the network that is a process in the pod, with every capability.
"""

import contextlib
import ipaddress
import json
import select
import socket
import struct
import threading
import time

from kuryr_cilium.linux import netns
from kuryr_cilium import vif

ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_QDISC_BYPASS = 20


class Pod:
    """A pod that was started.

    :ivar ip4: its IPv4 address.
    :ivar ip6: its IPv6 address.
    """

    def __init__(self, lab, obj):
        self._lab = lab
        metadata = obj['metadata']
        self.namespace, self.name = metadata['namespace'], metadata['name']
        self.uid = metadata['uid']
        self.node = obj['spec']['nodeName']
        facts = vif.facts(metadata['annotations'][vif.ANNOTATION])
        self.port_id, self.mac = facts.vif_id, facts.mac
        self.ip4 = next((a for a in facts.addresses if '.' in a), None)
        self.ip6 = next((a for a in facts.addresses if ':' in a), None)
        record = lab.records(self.node).get(self.uid)
        self.container_id = record['container_id'] if record else None
        # A path in the node: an absolute symlink would lead out of it.
        self.netns_in_node = record['netns'] if record else ''
        self.netns = str(lab.root(self.node)) + self.netns_in_node.replace(
            '/var/run/', '/run/', 1)

    def __repr__(self):
        return '%s/%s on %s' % (self.namespace, self.name, self.node)

    @property
    def addresses(self):
        return (self.ip4, self.ip6)

    def address(self, version):
        return self.ip4 if version == 4 else self.ip6

    @property
    def kc(self):
        return 'kc' + self.port_id[:11]

    def exec(self, *argv, check=True):
        """Run a command in its container."""
        return self._lab.kubectl('exec', '-n', self.namespace, self.name,
                                 '--', *argv, check=check)

    def read(self, path):
        """A file of its /proc/net."""
        def read():
            with open('/proc/thread-self/net/' + path) as stream:
                return stream.read()
        return netns.run(self.netns, read)

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM,
               protocol=0):
        """A socket in its network namespace."""
        return netns.run(self.netns, socket.socket, family, kind, protocol)

    def bound(self, kind, version=4, port=0):
        """A socket bound to its address."""
        found = self.socket(
            socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((self.address(version), port))
        return found

    def raw(self):
        """A packet socket that passes by the pod's own qdiscs."""
        found = self.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        found.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        netns.run(self.netns, found.bind, ('eth0', 0))
        return found

    @contextlib.contextmanager
    def capture(self, wanted):
        """Collect the frames that reach the pod.

        :param wanted: called with each frame that comes in, tells whether
            to keep it.
        """
        tap = self.socket(socket.AF_PACKET, socket.SOCK_RAW,
                          socket.htons(ETH_P_ALL))
        netns.run(self.netns, tap.bind, ('eth0', ETH_P_ALL))
        capture = _Capture(tap, wanted)
        capture.start()
        try:
            yield capture
        finally:
            capture.stop()


class _Capture(threading.Thread):
    """Reads a packet socket until it is stopped."""

    def __init__(self, tap, wanted):
        super().__init__(name='capture', daemon=True)
        self._tap = tap
        self._wanted = wanted
        self._done = threading.Event()
        self.frames = []

    def run(self):
        while not self._done.is_set():
            if not select.select([self._tap], [], [], 0.1)[0]:
                continue
            frame, address = self._tap.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING and self._wanted(frame):
                self.frames.append(frame)

    def stop(self):
        self._done.set()
        self.join()
        self._tap.close()


class Echo(threading.Thread):
    """Answers on a port of a pod, TCP and UDP, both families.

    :ivar received: datagrams and pieces of streams, as (protocol, data).
    """

    def __init__(self, pod, port):
        super().__init__(name='echo', daemon=True)
        self.port = port
        self._done = threading.Event()
        self._sockets = []
        self.received = []
        self.connections = []
        for version in (4, 6):
            if pod.address(version) is None:
                continue
            listener = pod.bound(socket.SOCK_STREAM, version, port)
            listener.listen(128)
            self._sockets += [listener, pod.bound(socket.SOCK_DGRAM, version,
                                                  port)]
        self._listeners = set(self._sockets[::2])
        self.start()

    def run(self):
        while not self._done.is_set():
            for ready in select.select(self._sockets, [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self._serve(ready)

    def _serve(self, ready):
        if ready in self._listeners:
            connection = ready.accept()[0]
            self._sockets.append(connection)
            self.connections.append(connection)
        elif ready.type == socket.SOCK_DGRAM:
            data, sender = ready.recvfrom(65536)
            self.received.append(('udp', data))
            ready.sendto(data, sender)
        else:
            data = b''
            with contextlib.suppress(ConnectionError):
                data = ready.recv(65536)
            if not data:
                self._sockets.remove(ready)
                self.connections.remove(ready)
                ready.close()
                return
            self.received.append(('tcp', data))
            ready.sendall(data)

    def stop(self):
        self._done.set()
        self.join()
        for item in self._sockets:
            item.close()


class Stream(threading.Thread):
    """A flow that is kept busy: each message is to be answered.

    :param kind: socket.SOCK_STREAM or socket.SOCK_DGRAM.
    :ivar error: what broke it off, if something did.
    """

    INTERVAL = 0.01

    def __init__(self, client, server, port, kind, version):
        super().__init__(name='stream', daemon=True)
        self.kind, self.version = kind, version
        self.pods = (client, server)
        self._done = threading.Event()
        self._socket = client.bound(kind, version)
        self._socket.settimeout(5)
        self._socket.connect((server.address(version), port))
        self._socket.setblocking(False)
        self._pending = b''
        self._waiting = {}
        self.sent = self.answered = 0
        self.last = time.monotonic()
        self.longest_gap = 0.0
        self.error = None
        self.start()

    def __repr__(self):
        return '%s over IPv%d from %s to %s' % (
            'TCP' if self.kind == socket.SOCK_STREAM else 'UDP',
            self.version, *self.pods)

    def run(self):
        try:
            while not self._done.is_set():
                self._send()
                self._receive(self.INTERVAL)
        except OSError as error:
            self.error = error

    def _send(self):
        with contextlib.suppress(BlockingIOError):
            self._socket.send(struct.pack('>Q', self.sent))
            self._waiting[self.sent] = time.time()
            self.sent += 1

    def _receive(self, timeout):
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [],
                                              left)[0]:
                return
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError('the peer has closed')
            self._pending += data
            whole = len(self._pending) // 8 * 8
            for number, in struct.iter_unpack('>Q', self._pending[:whole]):
                self._answer(number)
            self._pending = self._pending[whole:]

    def _answer(self, number):
        now = time.monotonic()
        self._waiting.pop(number)
        self.answered += 1
        self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now

    def stop(self):
        """End, after the last answers came.

        :returns: when the messages were sent that were not answered.
        """
        self._done.set()
        self.join()
        if self.error is None and self._socket.fileno() != -1:
            deadline = time.monotonic() + 2
            with contextlib.suppress(OSError):
                while (self.answered < self.sent
                       and time.monotonic() < deadline):
                    self._receive(0.1)
        self._socket.close()
        return [time.strftime('%H:%M:%S', time.localtime(sent)) +
                ('%.3f' % (sent % 1))[1:]
                for sent in self._waiting.values()]


class Flood(threading.Thread):
    """Tries without end to reach a port by every protocol.

    :param marks: bytes that its datagrams carry.
    """

    def __init__(self, pod, target, port, mark):
        super().__init__(name='flood', daemon=True)
        self._pod, self._port, self._mark = pod, port, mark
        self._targets = [(version, target.address(version))
                         for version in (4, 6)]
        self._done = threading.Event()
        self.sent = 0
        self.start()

    def run(self):
        datagrams = {version: self._pod.bound(socket.SOCK_DGRAM, version)
                     for version in (4, 6)}
        while not self._done.wait(0.02):
            for version, address in self._targets:
                with contextlib.suppress(OSError):
                    datagrams[version].sendto(self._mark,
                                              (address, self._port))
                attempt = self._pod.bound(socket.SOCK_STREAM, version)
                attempt.setblocking(False)
                attempt.connect_ex((address, self._port))
                attempt.close()
                self.sent += 2
        for item in datagrams.values():
            item.close()

    def stop(self):
        self._done.set()
        self.join()


def ask(client, address, port, protocol='tcp', timeout=1.0):
    """What a pod gets for a request to an address.

    :returns: 'answer'; 'refused' by something there; None for silence.
    """
    version = 6 if ':' in address else 4
    kind = socket.SOCK_STREAM if protocol == 'tcp' else socket.SOCK_DGRAM
    with client.bound(kind, version) as attempt:
        attempt.settimeout(timeout)
        try:
            attempt.connect((address, port))
            # An echo answers it, and so does a web server.
            attempt.sendall(b'GET /hostname HTTP/1.0\r\n\r\n')
            return 'answer' if attempt.recv(100) else 'refused'
        except (ConnectionRefusedError, ConnectionResetError):
            return 'refused'
        except TimeoutError:
            return None


def reaches(client, address, port, protocol='tcp', timeout=1.0):
    """Whether a pod gets an answer from an address."""
    return ask(client, address, port, protocol, timeout) == 'answer'


def sent_by(pod):
    """A filter for captures: IP packets with a pod as their source."""
    packed = {ipaddress.ip_address(address).packed
              for address in pod.addresses if address}

    def wanted(frame):
        kind = frame[12:14]
        return (kind == b'\x08\x00' and frame[26:30] in packed or
                kind == b'\x86\xdd' and frame[22:38] in packed and
                # Neighbour discovery is not judged by policy.
                not (frame[20] == 58 and frame[54] in range(130, 138)))
    return wanted


def manifest(name, labels=None, node=None, args=('pause',), **container):
    """A pod of the test image.

    :param container: further fields of its container.
    """
    spec = {
        'terminationGracePeriodSeconds': 0,
        'automountServiceAccountToken': False,
        'enableServiceLinks': False,
        'containers': [{
            'name': 'main', 'image': 'localhost/agnhost:1',
            'imagePullPolicy': 'IfNotPresent', 'args': list(args),
            **container}],
    }
    if node:
        spec['nodeSelector'] = {'kubernetes.io/hostname': node}
    return {'apiVersion': 'v1', 'kind': 'Pod', 'spec': spec,
            'metadata': {'name': name, 'labels': labels or {}}}


def policy(name, selector=None, **spec):
    """A NetworkPolicy.

    :param selector: labels of the pods that it selects; none: all.
    """
    spec['podSelector'] = {'matchLabels': selector or {}}
    return {'apiVersion': 'networking.k8s.io/v1', 'kind': 'NetworkPolicy',
            'metadata': {'name': name}, 'spec': json.loads(json.dumps(spec))}
