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

"""Ports of pods on a real Neutron."""

import uuid

from oslo_config import cfg
import tenacity

from kuryr_cilium.conf import neutron as neutron_conf
from kuryr_cilium import exceptions
from kuryr_cilium.neutron import client
from kuryr_cilium.neutron import facts
from kuryr_cilium.neutron import networks
from kuryr_cilium.neutron import ports
from kuryr_cilium import vif
from tests import base
from tests.functional.neutron import fixtures


class NeutronTestCase(base.TestCase):
    """A network of the test's own on a Neutron that tests share."""

    def setUp(self):
        super().setUp()
        self.neutron = fixtures.shared()
        self.conf = self.configured(self.neutron.url)
        self.network = self.neutron.create(
            'network', name='pods-%s' % uuid.uuid4())
        self.subnet4 = self.subnet('10.99.0.0/16', host_routes=[
            {'destination': '192.0.2.0/24', 'nexthop': '10.99.0.9'}])
        self.subnet6 = self.subnet('fd99::/64', gateway_ip='fd99::1')
        self.override(pod_network=self.network['name'])
        self.client = client.Client(self.conf, tenacity.wait_fixed(0.2))
        self.cluster = 'test-%s' % uuid.uuid4()
        self.manager = ports.PortManager(self.conf, self.client,
                                         self.cluster)

    def configured(self, url):
        """A configuration read from a file, as an operator writes it."""
        path = self.create_tempfiles([('neutron', (
            '[neutron]\nauth_type = none\nendpoint_override = %s\n' % url))
        ])[0]
        conf = cfg.ConfigOpts()
        neutron_conf.register_opts(conf)
        conf(['--config-file', path], project='test')
        return conf

    def override(self, **options):
        for name, value in options.items():
            self.conf.set_override(name, value, group='neutron')
            # NOTE: a group's options are shared by every ConfigOpts.
            self.addCleanup(self.conf.clear_override, name, group='neutron')

    def subnet(self, cidr, **fields):
        return self.neutron.create(
            'subnet', network_id=self.network['id'], cidr=cidr,
            ip_version=6 if ':' in cidr else 4, enable_dhcp=False,
            name=cidr, **fields)

    def port(self, vif_id):
        return self.neutron.call('GET', 'ports/' + vif_id)['port']


class ClientTestCase(NeutronTestCase):

    def test_errors(self):
        error = self.assertRaises(exceptions.NeutronNotFound,
                                  self.client.get, '/ports/nope')
        self.assertIn('Port nope could not be found', str(error))
        self.assertRaises(exceptions.NeutronError, self.client.post,
                          '/ports', {'port': {'network_id': 'x'}})
        self.client.delete('/ports/%s' % uuid.uuid4())

    def test_list_in_pages(self):
        self.patch(client, '_PAGE', 2)
        made = {self.neutron.create('security_group', name='g%d' % n)['id']
                for n in range(5)}
        listed = self.client.list('security-groups', fields=('id',))
        self.assertEqual(len(listed), len({one['id'] for one in listed}))
        self.assertLessEqual(made, {one['id'] for one in listed})
        self.assertEqual({'id'}, set(listed[0]))

    def test_nobody_listens(self):
        lost = client.Client(self.configured('http://127.0.0.1:9'),
                             tenacity.wait_none())
        self.assertRaises(exceptions.NeutronUnavailable, lost.get, '/ports')

    def test_restart_of_neutron(self):
        self.client.list('networks')
        self.neutron.stop_server()
        both = [self.client, client.Client(self.conf, tenacity.wait_none())]
        try:
            for one in both:
                self.assertRaises(exceptions.NeutronUnavailable,
                                  one.list, 'networks')
        finally:
            self.neutron.start_server()
        for one in both:
            self.assertTrue(one.list('networks'))


class CreateTestCase(NeutronTestCase):

    def test_vif(self):
        uid = str(uuid.uuid4())
        made = self.manager.create('default', 'web', uid, 'node-a')
        port = self.port(made.id)
        self.assertEqual(
            ('default/web', 'compute:kuryr', uid, 'node-a', 'ovs'),
            (port['name'], port['device_owner'], port['device_id'],
             port['binding:host_id'], port['binding:vif_type']))
        self.assertEqual(
            ['kuryr-cilium', 'kuryr-cilium:cluster=' + self.cluster],
            sorted(port['tags']))
        back = vif.loads(vif.dumps(made)).default_vif
        self.assertEqual((port['mac_address'], 'br-int', 'netdev', True),
                         (back.address, back.bridge_name,
                          back.port_profile.datapath_type,
                          back.port_profile.create_port))
        self.assertEqual((self.network['id'], self.network['mtu']),
                         (back.network.id, back.network.mtu))
        self.assertEqual({
            ('10.99.0.0/16', '10.99.0.1', '192.0.2.0/24 10.99.0.9'),
            ('fd99::/64', 'fd99::1', '')}, {
                (str(subnet.cidr), str(subnet.gateway), ' '.join(
                    '%s %s' % (route.cidr, route.gateway)
                    for route in subnet.routes.objects))
                for subnet in back.network.subnets.objects})
        self.assertEqual(
            {fixed_ip['ip_address'] for fixed_ip in port['fixed_ips']},
            set(vif.addresses(back)))

    def test_again_is_the_same_port(self):
        uid = str(uuid.uuid4())
        first = self.manager.create('default', 'web', uid, 'node-a')
        other = ports.PortManager(self.conf, self.client, self.cluster)
        self.assertEqual(vif.dumps(first), vif.dumps(
            other.create('default', 'web', uid, 'node-a')))

    def test_what_a_crash_left_is_completed(self):
        uid, mark = str(uuid.uuid4()), 'kuryr-cilium:cluster=' + self.cluster
        left = [self.neutron.create(
            'port', network_id=self.network['id'], device_id=uid,
            device_owner='compute:kuryr', description=mark)['id']
            for _twice in range(2)]
        self.assertEqual(set(left), {
            port.id for port in self.manager.list()})
        made = self.manager.create('default', 'web', uid, 'node-a')
        self.assertEqual([made.id], [port.id for port in self.manager.list()])
        self.assertIn(made.id, left)
        port = self.port(made.id)
        self.assertIn(mark, port['tags'])
        self.assertEqual('node-a', port['binding:host_id'])

    def test_dead_host(self):
        uid, host = str(uuid.uuid4()), 'node-%s' % uuid.uuid4()
        error = self.assertRaises(
            exceptions.BindingFailed, self.manager.create, 'default', 'web',
            uid, host)
        self.assertIn(host, str(error))
        self.assertIn('default/web', str(error))
        self.neutron.add_chassis(host)

        def bound():
            try:
                return self.manager.create('default', 'web', uid, host)
            except exceptions.BindingFailed:
                return None
        made = base.wait_until(bound, 20, 'the port is bound again')
        self.assertEqual([(made.id, host)], [
            (port.id, port.host) for port in self.manager.list()])

    def test_vhost_user_is_refused(self):
        error = self.assertRaises(
            exceptions.PortNotSupported, self.create_bound_by,
            {'binding:vif_type': 'vhostuser'})
        self.assertIn('DPDK', str(error))

    def test_hybrid_plug_is_refused(self):
        error = self.assertRaises(
            exceptions.PortNotSupported, self.create_bound_by,
            {'binding:vif_details': {'ovs_hybrid_plug': True}})
        self.assertIn('firewall_driver = openvswitch', str(error))

    def create_bound_by(self, changes):
        """Create a port as another mechanism driver would bind it."""
        post = self.client.post
        self.patch(self.client, 'post', lambda path, body: {
            'port': dict(post(path, body)['port'], **changes)})
        self.manager.create('default', 'web', str(uuid.uuid4()), 'node-a')

    def test_security_groups(self):
        group = self.neutron.create('security_group', name='pods',
                                    stateful=False)
        self.override(pod_security_groups=[group['id']])
        made = self.manager.create('default', 'web', str(uuid.uuid4()),
                                   'node-a')
        self.assertEqual([group['id']],
                         self.port(made.id)['security_groups'])

    def test_delete_twice(self):
        made = self.manager.create('default', 'web', str(uuid.uuid4()),
                                   'node-a')
        self.manager.delete(made.id)
        self.assertEqual([], self.manager.list())
        self.manager.delete(made.id)

    def test_others_ports_are_not_ours(self):
        uid = str(uuid.uuid4())
        stranger = self.neutron.create(
            'port', network_id=self.network['id'], device_id=uid,
            device_owner='compute:kuryr', name='default/web')
        other = ports.PortManager(self.conf, self.client, 'another')
        theirs = other.create('default', 'web', uid, 'node-b')
        made = self.manager.create('default', 'web', uid, 'node-a')
        self.assertEqual(3, len({stranger['id'], theirs.id, made.id}))
        self.assertEqual([ports.Port(
            made.id, uid, 'default/web', 'node-a', 'DOWN',
            self.port(made.id)['created_at'])], self.manager.list())


class LimitsTestCase(NeutronTestCase):

    def test_quota(self):
        project = self.network['project_id']
        used = self.neutron.call('GET', 'quotas/%s/details' % project)[
            'quota']['port']['used']
        self.neutron.call('PUT', 'quotas/' + project,
                          {'quota': {'port': used}})
        self.addCleanup(self.neutron.call, 'DELETE', 'quotas/' + project)
        error = self.assertRaises(
            exceptions.QuotaExceeded, self.manager.create, 'default', 'web',
            str(uuid.uuid4()), 'node-a')
        self.assertIn('openstack quota set', str(error))

    def test_full_subnet_and_the_next(self):
        small = [self.subnet(cidr) for cidr in ('10.1.0.0/30',
                                                '10.2.0.0/30')]
        self.override(pod_subnets=[
            small[0]['name'], self.subnet6['id'], small[1]['id']])
        found = [vif.addresses(self.manager.create(
            'default', 'web', str(uuid.uuid4()), 'node-a'))
            for _each in range(2)]
        self.assertEqual({'10.1.0.2', '10.2.0.2'}, {
            address for addresses in found for address in addresses
            if '.' in address})
        self.assertTrue(all(any(':' in address for address in addresses)
                            for addresses in found))
        error = self.assertRaises(
            exceptions.AddressesExhausted, self.manager.create, 'default',
            'web', str(uuid.uuid4()), 'node-a')
        self.assertIn('Add a subnet', str(error))

    def test_subnet_that_was_added_later(self):
        self.manager.create('default', 'web', str(uuid.uuid4()), 'node-a')
        self.neutron.call('DELETE', 'subnets/' + self.subnet('10.3.0.0/24')[
            'id'])
        later = self.subnet('10.4.0.0/24')
        known = networks.Networks(self.conf, self.client)
        known.get()
        new = self.subnet('10.5.0.0/24')
        self.assertIn(later['id'], known.get().subnets)
        self.assertNotIn(new['id'], known.get().subnets)
        self.assertIn(new['id'], known.get([new['id']]).subnets)

    def test_network_is_read_again(self):
        now = [0]
        known = networks.Networks(self.conf, self.client, lambda: now[0])
        self.assertEqual(self.network['mtu'], known.get().network['mtu'])
        self.neutron.call('PUT', 'networks/' + self.network['id'],
                          {'network': {'mtu': 1300}})
        self.assertEqual(self.network['mtu'], known.get().network['mtu'])
        now[0] = 61
        self.assertEqual(1300, known.get().network['mtu'])

    def test_what_is_configured_wrongly(self):
        for option, value, why in (
                ('pod_network', None, 'set the network'),
                ('pod_network', 'nope', 'no network nope'),
                ('pod_subnets', ['nope'], '0 subnets')):
            self.override(pod_network=self.network['id'], pod_subnets=[])
            self.override(**{option: value})
            error = self.assertRaises(
                exceptions.PodNetworkInvalid,
                networks.Networks(self.conf, self.client).get)
            self.assertIn(why, str(error))
        self.override(pod_network=self.network['name'], pod_subnets=[])
        self.neutron.create('network', name=self.network['name'])
        error = self.assertRaises(
            exceptions.PodNetworkInvalid,
            networks.Networks(self.conf, self.client).get)
        self.assertIn('2 networks', str(error))


class FactsTestCase(NeutronTestCase):

    def setUp(self):
        super().setUp()
        self.facts = facts.Facts(self.client)
        self.open = self.neutron.create('security_group', name='open',
                                        stateful=False)
        for direction in ('ingress', 'egress'):
            for family in ('IPv4', 'IPv6'):
                if (direction, family) not in {
                        (rule['direction'], rule['ethertype'])
                        for rule in self.open['security_group_rules']}:
                    self.neutron.create(
                        'security_group_rule', direction=direction,
                        security_group_id=self.open['id'], ethertype=family)

    def made(self, **fields):
        return self.neutron.create(
            'port', network_id=self.network['id'],
            device_owner='compute:kuryr', **fields)['id']

    def change(self, port, **fields):
        self.neutron.call('PUT', 'ports/' + port, {'port': fields})

    def unrestricted(self, *candidates):
        return set(candidates) & self.facts.unrestricted()

    def test_groups(self):
        group = self.neutron.create('security_group', name='egress only',
                                    stateful=False)
        is_open = self.made(security_groups=[self.open['id']])
        both = self.made(security_groups=[self.open['id'], group['id']])
        closed = self.made(security_groups=[group['id']])
        none = self.made(security_groups=[])
        off = self.made(security_groups=[], port_security_enabled=False)
        self.assertEqual({is_open, both, off}, self.unrestricted(
            is_open, both, closed, none, off))

    def test_admin_state(self):
        port = self.made(security_groups=[self.open['id']])
        self.change(port, admin_state_up=False)
        self.assertEqual(set(), self.unrestricted(port))
        self.change(port, admin_state_up=True)
        self.assertEqual({port}, self.unrestricted(port))
        self.neutron.call('PUT', 'networks/' + self.network['id'],
                          {'network': {'admin_state_up': False}})
        self.assertEqual(set(), self.unrestricted(port))

    def test_qos(self):
        port = self.made(security_groups=[self.open['id']])
        policy = self.neutron.create('policy', name='gold')
        self.change(port, qos_policy_id=policy['id'])
        self.assertEqual(set(), self.unrestricted(port))
        self.change(port, qos_policy_id=None)
        self.assertEqual({port}, self.unrestricted(port))
        self.network = self.neutron.create('network', name='gold',
                                           qos_policy_id=policy['id'])
        self.subnet('10.99.0.0/16')
        port = self.made(security_groups=[self.open['id']])
        self.assertEqual(set(), self.unrestricted(port))
