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

"""Services with all that concerns clients outside, as an agent has them."""

import dataclasses

from kuryr_cilium.lb import model
from tests import base
from tests.functional.datapath import outside
from tests.functional.datapath import paths
from tests.functional.datapath import scene

PORT, NODE_PORT, EXTERNAL = (outside.PORT, outside.NODE_PORT,
                             outside.EXTERNAL)
CLUSTER = {4: '10.96.0.10', 6: 'fd96::10'}


class TestServed(outside.OutsideCase):

    def setUp(self):
        super().setUp()
        node = self.scene.node
        self.external = scene.Place('', (EXTERNAL[4], EXTERNAL[6]))
        self.ways = ((self.external, PORT), (node, NODE_PORT))
        self.node = model.Node('node', '', (node.v4, node.v6))
        self.nodes = {self.a: 'node', self.b: 'node', self.remote: 'other'}

    def service(self, *places, **more):
        """Have a service of some places in force."""
        backends = tuple(sorted(
            model.Backend(place.address(version), 8080, self.nodes[place])
            for place in places for version in paths.FAMILIES))
        self.in_force = model.Service(
            'ns', 'web', '', (CLUSTER[4], CLUSTER[6]),
            (EXTERNAL[4], EXTERNAL[6]), tuple(
                model.Port(str(protocol), protocol, PORT, NODE_PORT, backends)
                for protocol in (6, 17)), **more)
        self.bring(self.in_force)

    def bring(self, service):
        self.assertEqual({}, self.driver.serve(
            {service.id: service}, self.node, frozenset(
                self.node.addresses)))

    def asks(self):
        """How the client fares: (version, port) -> 'answer' or an error."""
        found = {}
        for version in paths.FAMILIES:
            for asked, port in self.ways:
                try:
                    with scene.connect(self.client, version, asked, port,
                                       0.5) as sock:
                        found[version, port] = 'answer' if scene.answers(
                            sock) else 'nothing'
                except OSError as error:
                    found[version, port] = type(error).__name__
        return found

    def assertAsks(self, expected, node_port=None):
        self.assertEqual({
            (version, port): node_port or expected
            if port == NODE_PORT else expected
            for version in paths.FAMILIES for _, port in self.ways},
            self.asks())

    def servers(self, *places):
        for place in places:
            for version in paths.FAMILIES:
                server = scene.Server(place, version, 8080)
                self.addCleanup(server.__exit__)
                server.__enter__()

    def test_any_backend(self):
        self.servers(self.a, self.b, self.remote)
        self.service(self.a, self.b, self.remote)
        for _time in range(10):
            self.assertAsks('answer')
        self.assertEqual(
            {place.address(version) for place in self.nodes
             for version in paths.FAMILIES},
            {flow.address for flow in self.flows().values()})

    def test_local_backends(self):
        self.servers(self.a)
        self.service(self.a, self.remote, external_local=True)
        for _time in range(5):
            self.assertAsks('answer')
        self.assertEqual({self.a.v4, self.a.v6}, {
            flow.address for flow in self.flows().values()})
        self.service(self.remote, external_local=True)
        self.assertAsks('TimeoutError')
        self.service(external_local=True)
        self.assertAsks('ConnectionRefusedError')

    def test_source_ranges(self):
        self.servers(self.a)
        for ranges, expected in (
                (('192.0.2.0/25', 'fd51::/64'), 'answer'),
                (('192.0.2.128/25', 'fd50::/64'), 'TimeoutError'),
                ((), 'TimeoutError'), (None, 'answer')):
            self.service(self.a, source_ranges=ranges)
            self.assertAsks(expected, 'answer')
        self.assertEqual({'source-range'}, set(self.drops()))

    def test_cluster_addresses_are_for_the_inside(self):
        self.servers(self.a)
        self.service(self.a)
        for version in paths.FAMILIES:
            self.scene._ip(self.client, 'route', 'add', CLUSTER[version],
                           'via', self.scene.node.address(version))
        self.ways = ((scene.Place('', (CLUSTER[4], CLUSTER[6])), PORT),)
        self.assertNotIn('answer', self.asks().values())
        self.assertEqual({}, self.flows())

    def test_a_backend_goes(self):
        self.servers(self.a)
        self.service(self.a)
        for version in paths.FAMILIES:
            for asked, port in self.ways:
                with scene.Echo(self.a, version, 8080) as before, \
                        scene.Echo(self.remote, version, 8080) as after, \
                        scene.connect(self.client, version, asked,
                                      port) as sock, \
                        scene.Stream(self.client, version, asked,
                                     port) as stream:
                    stream.flows()
                    self.assertEqual([], after.received)
                    self.service(self.remote)
                    # The collector is told of it.
                    base.wait_until(lambda: after.received, 10)
                    stream.flows()
                    count = len(before.received)
                    stream.flows()
                    self.assertEqual(count, len(before.received))
                    self.assertTrue(scene.answers(sock))
                self.service(self.a)

    def test_a_backend_drains(self):
        """Flows that it has stay there, of UDP too."""
        self.servers(self.a)
        self.service(self.a)
        with scene.Echo(self.a, 4, 8080) as before, \
                scene.Echo(self.remote, 4, 8080) as after, \
                scene.Stream(self.client, 4, self.external, PORT) as stream:
            stream.flows()
            self.service(self.a, self.remote)
            self.bring(dataclasses.replace(self.in_force, ports=tuple(
                dataclasses.replace(port, backends=tuple(
                    dataclasses.replace(
                        backend, draining=backend.node == 'node')
                    for backend in port.backends))
                for port in self.in_force.ports)))
            self.scene.node.run(self.driver.sweep)
            count = len(before.received)
            stream.flows()
            self.assertLess(count, len(before.received))
            self.assertEqual([], after.received)
            with scene.Stream(self.client, 4, self.external, PORT) as other:
                other.flows()
            self.assertTrue(after.received)
