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
import time

from tests.e2e import base
from tests.e2e import pods

#: Seconds that the agent stays away, and that traffic goes on before and
#: after.
AWAY = 3.0


class TestAgentRestart(base.TestCase):

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
        with contextlib.ExitStack() as stack:
            captures = [stack.enter_context(server.capture(
                pods.sent_by(stranger))) for stranger in (bad_near, bad_far)]
            floods = [pods.Flood(stranger, server, base.PORT, b'stranger')
                      for stranger in (bad_near, bad_far)]
            time.sleep(AWAY)
            for node in (self.node, self.other_node):
                self.stop(node + '/agent', '--kill')
            time.sleep(AWAY)
            self.start(self.node + '/agent', self.other_node + '/agent')
            time.sleep(AWAY)
            for flood in floods:
                flood.stop()
                self.assertGreater(flood.sent, 100)
        lost = {repr(stream): stream.stop() for stream in streams}
        for stream in streams:
            self.assertIsNone(stream.error, stream)
            self.assertGreater(stream.answered, 300, stream)
            self.assertLess(stream.longest_gap, 1.0, stream)
        self.assertEqual({name: 0 for name in lost}, lost)
        for capture in captures:
            self.assertEqual([], capture.frames)
        # And it still follows changes.
        self.create(pods.policy('allow-all', {'app': 'server'},
                                ingress=[{}]))
        self.assertReaches(bad_near, server)
        self.assertReaches(bad_far, server)
