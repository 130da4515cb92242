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

"""Nodes and agents that miss what happens."""

from tests.e2e import base
from tests.e2e import pods
from tests.e2e import test_first_packet


class TestReboot(base.TestCase):

    def setUp(self):
        super().setUp()
        self.without_dns()

    def test_forced_delete_while_the_agent_is_away(self):
        self.assertNothingLeft()
        self.pods(pods.manifest('gone', {}, self.node))
        self.stop(self.node + '/agent', '--kill')
        self.delete('pod', 'gone', force=True)
        self.start(self.node + '/agent')
        self.assertNothingLeft()

    def test_power_cycle(self):
        # The victim is on a node that goes on, and sees every packet.
        victim, = self.pods(pods.manifest('victim', {}, self.other_node))
        self.create(pods.policy('deny', {'role': 'sender'},
                                policyTypes=['Egress']))
        self.echo(victim)
        sender, = self.pods(test_first_packet.sender(
            'sender', victim, self.node, {'role': 'sender'}))
        server, = self.pods(pods.manifest('server', {}, self.node,
                                          ('netexec', '--http-port=8080')))
        self.assertReaches(victim, server, 8080, ('tcp',))
        wanted = pods.sent_by(sender)
        with victim.capture(wanted) as seen:
            restarts = self._restarts('sender')
            self.lab.part('reboot', self.node)
            self.lab.wait_agent(self.node)
            base.wait_until(lambda: self._restarts('sender') > restarts, 90,
                            'the sender runs again')
            self.wait_ready('sender', 'server', timeout=90)
            sender = self.pod('sender')
            base.wait_until(
                lambda: test_first_packet.sent_packets(sender) > 50, 30,
                'the sender sends')
            self.assertEqual([], seen.frames)
        server = self.pod('server')
        self.assertReaches(victim, server, 8080, ('tcp',))
        # Of before the reboot nothing is left.
        links = {pod.port_id[:11] for pod in (sender, server)}
        base.wait_until(
            lambda: {name[3:] for name in self.lab.leftovers(
                self.node)['ovs']} == links, 60,
            lambda: 'ports in the switch: %s' % self.lab.leftovers(
                self.node)['ovs'])
        wanted = {sender.port_id, server.port_id}
        # A pod of the cluster's DNS may just have ended there, too.
        base.wait_until(
            lambda: set(self.lab.ports(self.node)) == wanted, 60,
            lambda: 'ports in Neutron: %s' % self.lab.ports(self.node))

    def test_agent_starts_without_the_controller(self):
        """What is on disk is in force before anybody answers."""
        server, friend, stranger = self.pods(
            pods.manifest('server', {'app': 'server'}, self.node),
            pods.manifest('friend', {'role': 'friend'}, self.other_node),
            pods.manifest('stranger', {}, self.other_node))
        self.create(pods.policy('friends', {'app': 'server'}, ingress=[
            {'from': [{'podSelector': {
                'matchLabels': {'role': 'friend'}}}]}]))
        self.echo(server)
        self.assertReaches(friend, server)
        self.assertBlocked(stranger, server)
        self.stop('controller')
        self.lab.part('restart', self.node + '/agent', '--kill')
        self.assertReaches(friend, server)
        self.assertBlocked(stranger, server)
        self.start('controller')

    def _restarts(self, name):
        statuses = self.get_pod(name)['status'].get('containerStatuses')
        return sum(status['restartCount'] for status in statuses or ())
