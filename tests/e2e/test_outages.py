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

"""Each service that the product needs goes away and comes back."""

import contextlib
import socket

from tests.e2e import base
from tests.e2e import pods

DENY = ('deny', {'app': 'victim'})


class TestOutages(base.TestCase):
    """Open flows lose nothing; what was in force stays in force."""

    def setUp(self):
        super().setUp()
        self.server, self.near, self.far, self.bad, self.victim = self.pods(
            pods.manifest('server', {'app': 'server'}, self.node),
            pods.manifest('near', {'role': 'friend'}, self.node),
            pods.manifest('far', {'role': 'friend'}, self.other_node),
            pods.manifest('bad', {}, self.other_node),
            pods.manifest('victim', {'app': 'victim'}, self.node))
        self.create(pods.policy('friends', {'app': 'server'}, ingress=[
            {'from': [{'podSelector': {
                'matchLabels': {'role': 'friend'}}}]}]))
        for pod in (self.server, self.victim):
            self.echo(pod)
        for friend in (self.near, self.far):
            self.assertReaches(friend, self.server)
        self.assertBlocked(self.bad, self.server)
        self.assertReaches(self.bad, self.victim)

    @contextlib.contextmanager
    def outage(self, part, *options, clients=None):
        """Without a part; flows and policy are watched all the time.

        It is started at the end, or before that by the test.

        :param clients: those whose flows are watched, if not all.
        """
        streams = [pods.Stream(client, self.server, base.PORT, kind, version)
                   for client in clients or (self.near, self.far)
                   for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
                   for version in (4, 6)]
        for stream in streams:
            self.addCleanup(stream.stop)
        with self.server.capture(pods.sent_by(self.bad)) as seen:
            flood = pods.Flood(self.bad, self.server, base.PORT, b'bad')
            self.stop(part, *options)
            try:
                yield
                self.start(part)
            finally:
                flood.stop()
            self.assertFlowed(streams)
        self.assertEqual([], seen.frames)
        # New connections too, afterwards as before.
        self.assertReaches(self.far, self.server)
        self.assertBlocked(self.bad, self.server)

    def waiting(self, name='late'):
        """A pod that is created in the meantime, and is not ready."""
        self.create(pods.manifest(name, {'role': 'friend'}, self.node))

    def assertServed(self, name='late', timeout=90):
        """It became a pod as any other."""
        self.wait_ready(name, timeout=timeout)
        self.assertReaches(self.pod(name), self.server)

    def assertAsBefore(self):
        """In force is what was in force when the part went away."""
        self.assertReaches(self.near, self.server)
        self.assertReaches(self.far, self.server)
        self.assertBlocked(self.bad, self.server)
        self.assertReaches(self.bad, self.victim)

    def deny(self):
        self.create(pods.policy(*DENY, policyTypes=['Ingress']))

    def assertDenied(self):
        base.wait_until(
            lambda: pods.ask(self.bad, self.victim.ip4, base.PORT) is None,
            60, 'the policy of the meantime is in force')
        self.assertBlocked(self.bad, self.victim)

    def test_rabbitmq(self):
        with self.outage('rabbitmq', '--kill'):
            self.deny()
            self.waiting()
            self.assertAsBefore()
            self.assertFalse(self.is_ready('late'))
            self.start('rabbitmq')
            self.assertDenied()
            self.assertServed()

    def test_api_server(self):
        with self.outage('kube-apiserver', '--kill'):
            self.assertAsBefore()
        self.deny()
        self.assertDenied()
        self.waiting()
        self.assertServed()

    def test_neutron(self):
        with self.outage('neutron', '--kill'):
            # Policy does not need Neutron.
            self.deny()
            self.assertDenied()
            self.waiting()
            self.assertFalse(self.is_ready('late'))
            self.start('neutron')
            self.assertServed()

    def test_controller(self):
        with self.outage('controller', '--kill'):
            self.deny()
            self.waiting()
            self.assertAsBefore()
            self.assertFalse(self.is_ready('late'))
            self.start('controller')
            self.assertDenied()
            self.assertServed()

    def test_switch(self):
        # What stays on the node does not need it.
        for part in ('ovsdb', 'vswitchd'):
            with self.outage('%s/%s' % (self.node, part), '--kill',
                             clients=(self.near,)):
                self.create(pods.policy(*DENY, policyTypes=['Ingress']))
                base.wait_until(
                    lambda: pods.ask(self.near, self.victim.ip4,
                                     base.PORT) is None, 30,
                    'a policy of the meantime is in force')
                self.delete('networkpolicy', DENY[0])
