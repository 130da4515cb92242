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

import threading

from kuryr_cilium.datapath import driver
from kuryr_cilium.monitor import events
from kuryr_cilium.policy import model
from tests import base
from tests.unit.agent import samples

PEER = samples.endpoint('peer', name='peer', addresses=('10.99.0.9',))
VIEW = model.View(1, True, {samples.UID: samples.endpoint(), 'peer': PEER},
                  {}, {})


def event(uid=samples.UID, direction='ingress', verdict='drop',
          source='10.99.0.9', destination='10.99.3.7', protocol=6, port=80,
          service=''):
    return driver.FlowEvent(
        1700000000.25, uid, direction, verdict,
        'POLICY' if verdict == 'drop' else '', source, destination, protocol,
        40000, port, ('NetworkPolicy/default/landing',), service)


class TestNames(base.TestCase):

    def name(self, *args, **kwargs):
        names = events.Names()
        names.update(VIEW)
        return events.name(7, event(*args, **kwargs), names)

    def test_both_sides_on_this_node(self):
        named = self.name()
        self.assertEqual(
            ('default/peer', 'default/web', 'default/web', 'TCP', 7),
            (named.source_pod, named.destination_pod, named.pod,
             named.protocol, named.seq))
        self.assertEqual('2023-11-14T22:13:20.250Z', named.time)
        self.assertEqual(
            'drop ingress TCP default/peer (10.99.0.9:40000) -> default/web '
            '(10.99.3.7:80) reason POLICY by NetworkPolicy/default/landing',
            str(named))

    def test_the_service_that_was_asked(self):
        named = self.name(uid='peer', direction='egress',
                          service='shop/web')
        self.assertEqual('shop/web', named.service)
        self.assertIn('(10.99.3.7:80) by service shop/web reason POLICY',
                      str(named))
        self.assertEqual('', self.name().service)

    def test_a_peer_beyond_the_node(self):
        named = self.name(source='fd99::1', destination='fd99::3:7')
        self.assertEqual(('', 'default/web'),
                         (named.source_pod, named.destination_pod))
        self.assertIn('[fd99::1]:40000 ->', str(named))

    def test_who_spoofs_is_named_by_what_it_is(self):
        named = self.name(uid='peer', direction='egress', source='10.99.3.7',
                          destination='198.51.100.1')
        self.assertEqual(('default/peer', ''),
                         (named.source_pod, named.destination_pod))

    def test_a_frame_without_addresses(self):
        named = self.name(uid='', source='', destination='', protocol=0,
                          port=0)
        self.assertEqual(('', '', ''), (named.pod, named.source_pod,
                                        named.protocol))
        self.assertIn('? -> ?', str(named))


class TestRateLimit(base.TestCase):

    def test_counts_what_it_refuses(self):
        now = [0.0]
        limit = events.RateLimit(2, 3, lambda: now[0])
        self.assertEqual([0, 0, 0, None, None],
                         [limit.take() for _ in range(5)])
        now[0] = 0.5
        self.assertEqual([2, None], [limit.take(), limit.take()])
        now[0] = 100.0
        self.assertEqual([1, 0, 0, None], [limit.take() for _ in range(4)])


class TestRing(base.TestCase):

    def add(self, ring, count):
        names = events.Names()
        for _ in range(count):
            ring.add(lambda seq: events.name(seq, event(), names))

    def test_keeps_the_last(self):
        ring = events.Ring(3)
        self.assertEqual([], ring.since(0))
        self.add(ring, 5)
        self.assertEqual([3, 4, 5], [e.seq for e in ring.since(0)])
        self.assertEqual([5], [e.seq for e in ring.since(4)])
        self.assertEqual([], ring.since(5))
        self.assertEqual([], ring.since(99))

    def test_follow_goes_on_and_ends_when_closed(self):
        ring = events.Ring(10)
        self.add(ring, 2)
        seen = []
        follower = threading.Thread(
            target=lambda: seen.extend(e.seq for e in ring.follow(1)))
        follower.start()
        base.wait_until(lambda: seen == [2])
        self.add(ring, 1)
        base.wait_until(lambda: seen == [2, 3])
        ring.close()
        follower.join(5)
        self.assertFalse(follower.is_alive())


class TestMonitor(base.TestCase):

    def run_monitor(self, reported, log_drops=True):
        datapath = samples.Datapath()
        datapath.reported = reported
        monitor = events.Monitor(datapath, lambda: VIEW, 100, log_drops,
                                 0.001, 2)
        monitor.start()
        base.wait_until(lambda: len(monitor.ring.since(0)) == len(reported))
        monitor.stop()
        datapath.stop()
        monitor.join(5)
        self.assertFalse(monitor.is_alive())
        return monitor

    def test_ring_and_log(self):
        with self.assertLogs('kuryr_cilium.monitor.events', 'INFO') as logs:
            self.run_monitor([event(), event(verdict='allow'), event(),
                              event(), event()])
        self.assertEqual(2, len(logs.output))
        self.assertIn('default/peer', logs.output[0])

    def test_the_log_is_optional(self):
        with self.assertNoLogs('kuryr_cilium.monitor.events', 'INFO'):
            self.run_monitor([event()], log_drops=False)
