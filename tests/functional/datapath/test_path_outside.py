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

"""Services as clients outside reach them, through the node's own stack."""

from tests.functional.datapath import outside
from tests.functional.datapath import paths
from tests.functional.datapath import scene

EXTERNAL, ANY = outside.EXTERNAL, outside.ANY
PORT, NODE_PORT = outside.PORT, outside.NODE_PORT


class Asked(scene.Place):
    """The client's view of an address of a service."""

    def __init__(self, v4, v6):
        super().__init__('', (v4, v6))


class TestReached(outside.OutsideCase):

    def setUp(self):
        super().setUp()
        self.external = Asked(EXTERNAL[4], EXTERNAL[6])
        #: Where the client asks: an external address, a node port.
        self.ways = ((self.external, PORT), (self.scene.node, NODE_PORT))

    def serve_all(self, *places, **more):
        """Serve ports of some places at the external address and at nodes'."""
        for version in paths.FAMILIES:
            backends = [(place.address(version), 8080) for place in places]
            self.serve(EXTERNAL[version], PORT, *backends, **more)
            self.serve(ANY[version], NODE_PORT, *backends, **more)

    def assertServed(self, place, seen_as):
        """The client gets answers of a place, which sees somebody."""
        for version in paths.FAMILIES:
            with scene.Server(place, version, 8080), \
                    scene.Echo(place, version, 8080) as echo:
                for asked, port in self.ways:
                    with scene.connect(self.client, version, asked,
                                       port) as sock:
                        peer = sock.getpeername()
                        self.assertEqual((asked.address(version), port),
                                         peer[:2])
                        self.assertTrue(scene.answers(sock))
                        self.assertTrue(scene.answers(sock, bytes(100000)))
                    with scene.Stream(self.client, version, asked,
                                      port) as stream:
                        stream.flows()
                        self.assertEqual([], stream.lost())
                self.assertEqual({seen_as.address(version)},
                                 {peer for peer, _ in echo.received})

    def test_by_a_local_pod_who_sees_the_client(self):
        self.serve_all(self.a)
        self.assertServed(self.a, self.client)
        self.assertEqual({}, self.drops())

    def test_by_a_host_elsewhere_that_sees_the_node(self):
        self.serve_all(self.remote)
        self.assertServed(self.remote, self.scene.node)
        self.assertEqual({}, self.drops())

    def test_by_the_node_itself(self):
        self.serve_all(self.scene.node)
        self.assertServed(self.scene.node, self.client)
        self.assertEqual({}, self.drops())
