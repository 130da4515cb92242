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

"""A pod's address is given to another only after its node has released it."""

import time

from kuryr_cilium import vif
from tests.e2e import base
from tests.e2e import pods
from tests.e2e import test_idempotence

#: A subnet of so few addresses that they must be used again.
CIDR, GATEWAY, USABLE = '10.97.0.0/29', '10.97.0.1', 5
#: Seconds for which an address is seen not to be given away.
PATIENCE = 8.0


class TestAddresses(base.TestCase):

    cni = test_idempotence.TestIdempotence.cni

    def setUp(self):
        super().setUp()
        network = self.lab.neutron_facts()['network']
        subnet = self.lab.neutron('POST', 'subnets', {'subnet': {
            'network_id': network, 'ip_version': 4, 'cidr': CIDR,
            'gateway_ip': GATEWAY, 'enable_dhcp': False,
            'name': self.namespace}})['subnet']
        self.addCleanup(self._delete_subnet, subnet['id'])
        self.config = (self.lab.state / 'controller' /
                       'kuryr-cilium.conf.d' / 'e2e.conf')
        self.addCleanup(self._configure, None)
        self._configure('[neutron]\npod_subnets = %s\n' % subnet['id'])

    def _configure(self, text):
        if text is None:
            self.config.unlink(missing_ok=True)
        else:
            self.config.write_text(text)
        self.lab.part('restart', 'controller')

    def _delete_subnet(self, subnet):
        self.lab.kubectl('delete', 'pod', '--all', '-n', self.namespace)
        base.wait_until(
            lambda: not [port for port in self.lab.ports().values()
                         if subnet in {item['subnet_id']
                                       for item in port['fixed_ips']}],
            90, 'the ports of the small subnet are gone')
        self.lab.neutron('DELETE', 'subnets/' + subnet)

    def test_reuse(self):
        names = ['p%d' % number for number in range(USABLE)]
        found = self.pods(*(pods.manifest(name, {}, self.node)
                            for name in names))
        self.assertEqual(USABLE, len({pod.ip4 for pod in found}))
        old = found[0]
        self.create(pods.manifest('late', {}, self.node))
        text = base.wait_until(lambda: self.events('late'), 30,
                               'there is an event on the pod')
        base.wait_until(
            lambda: any(item.startswith('FailedCreatePort')
                        for item in self.events('late')), 30,
            lambda: 'the event tells of the port: %s' % text)
        # Deleted for the API, but its node does not know yet.
        self.stop(self.node + '/agent', '--kill')
        self.delete('pod', old.name, force=True)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.assertIn(old.port_id, self.lab.ports())
            self.assertFalse(self.annotated('late'))
        self.start(self.node + '/agent')
        self.wait_ready('late', timeout=90)
        self.assertNotIn(old.port_id, self.lab.ports())
        new = self.pod('late')
        self.assertEqual(old.ip4, new.ip4)
        peer = found[1]
        self.echo(new)
        self.assertReaches(peer, new)
        # What was meant for the old owner comes late.
        self.assertEqual((True, ''), self.cni('DEL', old))
        self.assertReaches(peer, new)
        self.assertEqual(new.port_id, vif.facts(
            self.get_pod('late')['metadata']['annotations'][
                vif.ANNOTATION]).vif_id)
