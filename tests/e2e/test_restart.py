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

"""The agent dies under traffic: nothing is lost, nothing gets through."""

import contextlib
import itertools
import socket

from tests.e2e import base
from tests.e2e import pods

#: Messages of each flow that are answered before, while the agent is away,
#: and after.
MESSAGES = 150


class TestAgentRestart(base.TestCase):

    def flow_on(self, streams):
        """Let every flow have more of its messages answered."""
        wanted = {stream: stream.answered + MESSAGES for stream in streams}
        base.wait_until(
            lambda: all(stream.answered >= number or stream.error
                        for stream, number in wanted.items()), 30,
            'all flows go on')

    def test_killed_and_started_again(self):
        server, near, far, bad_near, bad_far = self.pods(
            pods.manifest('server', {'app': 'server'}, self.node),
            pods.manifest('near', {'role': 'friend'}, self.node),
            pods.manifest('far', {'role': 'friend'}, self.other_node),
            pods.manifest('bad-near', {}, self.node),
            pods.manifest('bad-far', {}, self.other_node))
        self.create(
            pods.policy('deny', policyTypes=['Ingress']),
            pods.policy('allow', {'app': 'server'}, ingress=[
                {'from': [{'podSelector': {
                    'matchLabels': {'role': 'friend'}}}],
                 'ports': [{'port': base.PORT},
                           {'port': base.PORT, 'protocol': 'UDP'}]}]))
        self.echo(server)
        for friend in (near, far):
            self.assertReaches(friend, server)
        for stranger in (bad_near, bad_far):
            self.assertBlocked(stranger, server)
        kinds = itertools.product((near, far),
                                  (socket.SOCK_STREAM, socket.SOCK_DGRAM),
                                  (4, 6))
        streams = [pods.Stream(client, server, base.PORT, kind, version)
                   for client, kind, version in kinds]
        for stream in streams:
            self.addCleanup(stream.stop)
        with contextlib.ExitStack() as stack:
            captures = [stack.enter_context(server.capture(
                pods.sent_by(stranger))) for stranger in (bad_near, bad_far)]
            floods = [pods.Flood(stranger, server, base.PORT, b'stranger')
                      for stranger in (bad_near, bad_far)]
            self.flow_on(streams)
            # First the process that works, which is started again at once.
            for node in (self.node, self.other_node):
                pid = self.lab.agent_pid(node)
                self.lab.on_node(node, 'kill', '-9', str(pid))
                self.assertTrue(base.wait_until(
                    lambda: self.lab.agent_pid(node) not in (None, pid), 30,
                    'another process works'))
            self.flow_on(streams)
            # Then the whole service, which stays away.
            for node in (self.node, self.other_node):
                self.stop(node + '/agent', '--kill')
            self.flow_on(streams)
            self.start(self.node + '/agent', self.other_node + '/agent')
            self.flow_on(streams)
            for flood in floods:
                flood.stop()
                self.assertGreater(flood.sent, 100)
        self.assertFlowed(streams)
        for stream in streams:
            self.assertGreater(stream.answered, 4 * MESSAGES, stream)
            self.assertLess(stream.longest_gap, 1.0, stream)
        for capture in captures:
            self.assertEqual([], capture.frames)
        # And it still follows changes.
        self.create(pods.policy('allow-all', {'app': 'server'},
                                ingress=[{}]))
        self.assertReaches(bad_near, server)
        self.assertReaches(bad_far, server)
