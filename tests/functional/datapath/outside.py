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

"""A client outside, a backend elsewhere, and the node between them."""

import itertools

from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import outside
from kuryr_cilium.datapath.bpf import service_rows
from kuryr_cilium.lb import frontends
from kuryr_cilium.lb import plan
from tests.functional.datapath import paths
from tests.functional.datapath import scene

UPLINKS = ('up0', 'up1')
EXTERNAL = {4: '203.0.113.80', 6: 'fd53::80'}
ANY = {4: '0.0.0.0', 6: '::'}
TCP, UDP = 6, 17
PORT = 80
NODE_PORT = 30080
OUTSIDE = frontends.OUTSIDE
Flag = outside.Flag


class OutsideCase(paths.PathCase):
    """The client is on one uplink, the backend elsewhere on the other one.

    :ivar client: a host in the node's network.
    :ivar remote: a host behind the node's other network, that answers
        clients itself if they ask it themselves.
    """

    def prepare(self):
        self.scene.options(uplinks=list(UPLINKS))
        self.client = self.host('client', 'up0', (
            '192.0.2.100', 'fd51::100'), (self.scene.node.v4,
                                          self.scene.node.v6))
        self.remote = self.host('remote', 'up1', (
            '198.51.100.2', 'fd52::2'), ('198.51.100.1', 'fd52::1'))
        for version in paths.FAMILIES:
            self.scene._ip(self.client, 'route', 'add', EXTERNAL[version],
                           'via', self.scene.node.address(version))

    def setUp(self):
        super().setUp()
        self.join()
        self.forward()
        self.apply()
        self._sets = itertools.count(1 << 20)
        # As services do that are brought in force; these are not.
        self.driver._maps.set_meta(layout.Meta.NODE_PORTS,
                                   30000 << 16 | 32767)

    def host(self, name, device, addresses, gateways):
        """A host on a link of the node, by which all its ways lead."""
        place = scene.Place(self.scene.node.name[:-4] + name, addresses)
        scene.run('ip', 'netns', 'add', place.name)
        self.addCleanup(scene.run, 'ip', 'netns', 'del', place.name)
        self.in_node('ip', 'link', 'add', device, 'type', 'veth', 'peer',
                     'name', 'eth0', 'netns', place.name)
        # Else nobody asks for neighbours in the first second: who asks has
        # an address that may be somebody else's.
        self.in_node('sysctl', '-qw',
                     'net.ipv6.conf.%s.accept_dad=0' % device)
        scene.run('ip', 'netns', 'exec', place.name, 'sysctl', '-qw',
                  'net.ipv6.conf.eth0.accept_dad=0')
        self.in_node('ip', 'link', 'set', device, 'up')
        for item in ('lo', 'eth0'):
            self.scene._ip(place, 'link', 'set', item, 'up')
        for address, gateway, size in zip(addresses, gateways, (24, 64)):
            more = ['nodad'] if ':' in address else []
            self.in_node('ip', 'addr', 'add', '%s/%d' % (gateway, size),
                         'dev', device, *more)
            self.scene._ip(place, 'addr', 'add', '%s/%d' % (address, size),
                           'dev', 'eth0', *more)
            self.scene._ip(place, '-6' if more else '-4', 'route', 'add',
                           'default', 'via', gateway)
        for end in (self.scene.node, place):
            scene.settle(end)
        return place

    def serve(self, address, port, *backends, protocols=(TCP, UDP),
              affinity=0, number=7, scope=OUTSIDE):
        """Write a service.

        :param backends: (address, port).
        """
        rows = next(self._sets)
        for index, backend in enumerate(backends):
            self.update('kc_backend', service_rows.BackendKey(rows, index),
                        service_rows.Backend(*backend, None, 0))
        for protocol in protocols:
            self.update('kc_svc', service_rows.SvcKey(
                scope, address, port, protocol), service_rows.Svc(
                    rows, len(backends), number, affinity))

    def silence(self, address, port, number=7):
        for protocol in (TCP, UDP):
            self.update('kc_svc', service_rows.SvcKey(
                OUTSIDE, address, port, protocol), service_rows.Svc(
                    plan.SILENT, 0, number, 0))

    def update(self, table, key, value):
        libbpf.map_update(self.driver._maps.fd(table), key.pack(),
                          value.pack())

    def flows(self):
        """Flows that the node knows: key -> value."""
        found = {outside.Key.unpack(key): outside.Entry.unpack(value)
                 for table in outside.FLOWS for key, value
                 in libbpf.map_items(self.driver._maps.fd(table))}
        return {key: value for key, value in found.items()
                if value.flags & outside.Flag.FLOW}

    def drops(self):
        """Without what the hosts' own discovery of neighbours leads to."""
        return {reason: count for reason, count
                in self.driver.drops().items() if count and reason not in (
                    'not-ready', 'nd', 'not-ours', 'host-frame')}
