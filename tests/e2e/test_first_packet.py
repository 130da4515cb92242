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

"""A pod is policed from its first packet."""

from tests.e2e import base
from tests.e2e import pods

_LOOPS = """
for ip in %(ip4)s %(ip6)s; do
    while :; do nc -w 1 $ip %(port)d </dev/null; done &
    while :; do
        /agnhost connect --protocol=udp --timeout=100ms [$ip]:%(port)d
    done &
    ping -i 0.1 $ip &
done
wait
"""


def sender(name, target, node, labels):
    """A pod that sends from its first instant."""
    loops = _LOOPS % {'ip4': target.ip4, 'ip6': target.ip6,
                      'port': base.PORT}
    manifest = pods.manifest(name, labels, node, args=())
    manifest['spec']['containers'][0]['command'] = ['sh', '-c', loops]
    return manifest


def sent_packets(pod):
    """How many packets a pod's eth0 has sent (/proc/net/dev)."""
    for line in pod.read('dev').splitlines():
        name, _, values = line.partition(':')
        if name.strip() == 'eth0':
            return int(values.split()[9])
    raise AssertionError('%s has no eth0' % pod)


#: EtherType and protocol of what the sender sends.
EVERY_WAY = {(kind, protocol) for kind, protocols in (
    (b'\x08\x00', (1, 6, 17)), (b'\x86\xdd', (58, 6, 17)))
    for protocol in protocols}


class TestFirstPacket(base.TestCase):

    def test_a_pod_that_may_not_send(self):
        peers = self.pods(pods.manifest('near', {}, self.node),
                          pods.manifest('far', {}, self.other_node))
        self.create(pods.policy('deny', {'role': 'sender'},
                                policyTypes=['Egress']))
        for peer in peers:
            self.echo(peer)
            with peer.capture(lambda frame: True) as all_frames:
                names = ['s%d-%s' % (number, peer.name)
                         for number in range(3)]
                muted = self.pods(*(
                    sender(name, peer, self.node, {'role': 'sender'})
                    for name in names))
                for pod in muted:
                    # It did try.
                    base.wait_until(lambda: sent_packets(pod) > 50, 30,
                                    '%s sends' % pod)
            for pod in muted:
                wanted = pods.sent_by(pod)
                self.assertEqual([], [frame for frame in all_frames.frames
                                      if wanted(frame)])
            self.delete('pod', *names, force=True)

    def test_the_same_pod_without_policy_is_seen(self):
        peer, = self.pods(pods.manifest('peer', {}, self.other_node))
        self.echo(peer)
        with peer.capture(lambda frame: True) as all_frames:
            talker, = self.pods(sender('talker', peer, self.node, {}))
            heard = pods.sent_by(talker)
            base.wait_until(
                lambda: {(frame[12:14], frame[23 if frame[12] == 8 else 20])
                         for frame in list(all_frames.frames)
                         if heard(frame)} >= EVERY_WAY, 30,
                'the peer hears of every protocol and family')

    def test_a_pod_that_may_not_receive(self):
        # Its peers send to its address before it has a network.
        near, far = self.pods(pods.manifest('near', {}, self.node),
                              pods.manifest('far', {}, self.other_node))
        self.create(pods.policy('deny', {'role': 'victim'},
                                policyTypes=['Ingress']))
        for number in range(3):
            name = 'victim-%d' % number
            self.create(pods.manifest(name, {'role': 'victim'}, self.node))
            base.wait_until(lambda: self.annotated(name), 30,
                            '%s has its annotation' % name)
            target = pods.Pod(self.lab, self.get_pod(name))
            floods = [pods.Flood(peer, target, base.PORT, b'early')
                      for peer in (near, far)]
            self.addCleanup(self._stop, floods)
            self.wait_ready(name)
            victim = self.pod(name)
            self.assertEqual(0, self._received(victim), victim)
            self._stop(floods)

    def _stop(self, floods):
        for flood in floods:
            flood.stop()

    def _received(self, pod):
        """TCP segments, datagrams, echo requests that its kernel saw."""
        counters = {}
        lines = pod.read('snmp').splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            kind = names.split(':')[0]
            counters.update({kind + name: int(value) for name, value in zip(
                names.split()[1:], values.split()[1:])})
        for line in pod.read('snmp6').splitlines():
            name, value = line.split()
            counters[name] = int(value)
        return (counters['TcpInSegs'] + counters['UdpInDatagrams'] +
                counters['UdpNoPorts'] + counters['Udp6InDatagrams'] +
                counters['Udp6NoPorts'])
