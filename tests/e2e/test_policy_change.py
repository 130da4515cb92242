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

"""A policy change takes effect on open connections, both ways, at once."""

import contextlib
import itertools
import socket
import time

from tests.e2e import base
from tests.e2e import pods

#: Seconds after which a change is in force at the latest.
SOON = 5.0
#: Seconds for which nothing may pass then.
QUIET = 1.5

KINDS = {'TCP': socket.SOCK_STREAM, 'UDP': socket.SOCK_DGRAM}


class Flow:
    """A connection, or an exchange of datagrams, that is used both ways.

    :raises: OSError if it can't be opened.
    """

    def __init__(self, client, server, protocol, version):
        self.name = '%s over IPv%d from %s' % (protocol, version, client)
        self._open = contextlib.ExitStack()
        with self._open as undo:
            kind = KINDS[protocol]
            listener = undo.enter_context(server.bound(kind, version))
            self.client = undo.enter_context(client.bound(kind, version))
            for end in (listener, self.client):
                end.settimeout(1)
            if kind == socket.SOCK_STREAM:
                listener.listen()
                self.client.connect(listener.getsockname()[:2])
                self.server = undo.enter_context(listener.accept()[0])
            else:
                self.client.connect(listener.getsockname()[:2])
                self.client.send(b'first')
                listener.connect(listener.recvfrom(100)[1][:2])
                self.server = listener
            for end in (self.client, self.server):
                end.setblocking(False)
            self._open = undo.pop_all()

    def close(self):
        self._open.close()


def exchange(flows, seconds):
    """Send both ways for a while.

    :returns: for each flow the bytes that came to the server and to the
        client, those of before left out.
    """
    ends = [end for flow in flows for end in (flow.server, flow.client)]
    for end in ends:
        _drain(end)
    deadline = time.monotonic() + seconds
    arrived = dict.fromkeys(ends, 0)
    while time.monotonic() < deadline:
        for end in ends:
            with contextlib.suppress(OSError):
                end.send(b'more')
            arrived[end] += _drain(end)
        time.sleep(0.02)
    return {flow.name: (arrived[flow.server], arrived[flow.client])
            for flow in flows}


def _drain(end):
    size = 0
    with contextlib.suppress(OSError):
        while data := end.recv(65536):
            size += len(data)
    return size


class TestPolicyChange(base.TestCase):

    def setUp(self):
        super().setUp()
        self.server, self.near, self.far = self.pods(
            pods.manifest('server', {'app': 'server'}, self.node),
            pods.manifest('near', {'app': 'client'}, self.node),
            pods.manifest('far', {'app': 'client'}, self.other_node))

    def open(self):
        """Flows of every kind, all of which pass."""
        flows = []
        for client, protocol, version in itertools.product(
                (self.near, self.far), KINDS, (4, 6)):
            flow = base.wait_until(
                lambda: self._try(client, protocol, version), 15,
                '%s opened by %s' % (protocol, client))
            self.addCleanup(flow.close)
            flows.append(flow)
        base.wait_until(
            lambda: all(map(all, exchange(flows, 0.3).values())), 5,
            'all flows pass both ways')
        return flows

    def _try(self, client, protocol, version):
        try:
            return Flow(client, self.server, protocol, version)
        except OSError:
            return None

    def assertCut(self, flows):
        """Soon nothing passes, in no direction, for as long as one looks."""
        nothing = {flow.name: (0, 0) for flow in flows}
        base.wait_until(lambda: exchange(flows, 0.2) == nothing, SOON,
                        'all flows are cut')
        self.assertEqual(nothing, exchange(flows, QUIET))

    def test_ingress_of_the_server(self):
        flows = self.open()
        self.create(pods.policy('deny', {'app': 'server'},
                                policyTypes=['Ingress']))
        self.assertCut(flows)
        self.delete('networkpolicy', 'deny')
        self.open()

    def test_egress_of_the_clients(self):
        flows = self.open()
        self.create(pods.policy('deny', {'app': 'client'},
                                policyTypes=['Egress']))
        self.assertCut(flows)
        self.delete('networkpolicy', 'deny')
        self.open()

    def test_a_rule_is_taken_back(self):
        rules = [{'from': [{'podSelector': {
            'matchLabels': {'app': 'client'}}}]}]
        self.create(pods.policy('rule', {'app': 'server'}, ingress=rules))
        flows = self.open()
        self.create(pods.policy('rule', {'app': 'server'}, ingress=[]))
        self.assertCut(flows)
        self.create(pods.policy('rule', {'app': 'server'}, ingress=rules))
        self.open()

    def test_a_label_is_taken_away(self):
        self.create(pods.policy('rule', {'app': 'server'}, ingress=[
            {'from': [{'podSelector': {'matchLabels': {'app': 'client'}}}]}]))
        flows = self.open()
        self.lab.kubectl('label', 'pod', '-n', self.namespace, 'near', 'far',
                         'app-')
        self.assertCut(flows)
        self.lab.kubectl('label', 'pod', '-n', self.namespace, 'near', 'far',
                         'app=client')
        self.open()

    def test_datagrams_pass_again_when_allowed_again(self):
        flow = Flow(self.near, self.server, 'UDP', 4)
        self.addCleanup(flow.close)
        self.create(pods.policy('deny', {'app': 'server'},
                                policyTypes=['Ingress']))
        self.assertCut([flow])
        self.delete('networkpolicy', 'deny')
        base.wait_until(lambda: all(exchange([flow], 0.2)[flow.name]), 15,
                        'the exchange of datagrams goes on')
