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

import json
import subprocess
import sys
import uuid

import hypothesis
from hypothesis import strategies as st
from os_vif import objects as osv_objects
from os_vif.objects import fixed_ip as osv_fixed_ip
from os_vif.objects import network as osv_network
from os_vif.objects import route as osv_route
from os_vif.objects import subnet as osv_subnet
from os_vif.objects import vif as osv_vif

from kuryr_cilium import exceptions
from kuryr_cilium import vif
from tests import base

osv_objects.register_all()

PORT = 'b0a8c5d2-7a3e-4f6f-9a51-0d6a0c7f1a11'
NETWORK = '5c1c2f70-94c5-4a0f-bb0c-2a3f4c5d6e7f'


def make(port=PORT, network=NETWORK, mac='fa:16:3e:00:00:01',
         subnets=(('10.99.0.0/16', '10.99.0.1', ('10.99.1.2',)),
                  ('fd99::/64', 'fd99::1', ('fd99::1:2',)))):
    """A VIF of subnets (cidr, gateway or None, addresses)."""
    made = []
    for cidr, gateway, ips in subnets:
        subnet = osv_subnet.Subnet(
            cidr=cidr, dns=[], routes=osv_route.RouteList(objects=[
                osv_route.Route(cidr='192.0.2.0/24', gateway='10.99.0.9')]),
            ips=osv_fixed_ip.FixedIPList(objects=[
                osv_fixed_ip.FixedIP(address=ip) for ip in ips]))
        if gateway:
            subnet.gateway = gateway
        made.append(subnet)
    return osv_vif.VIFOpenVSwitch(
        id=port, address=mac, plugin='ovs', active=False,
        vif_name='tap' + port[:11], bridge_name='br-int',
        has_traffic_filtering=True, preserve_on_delete=False,
        network=osv_network.Network(
            id=network, bridge='br-int', mtu=1442,
            subnets=osv_subnet.SubnetList(objects=made)),
        port_profile=osv_vif.VIFPortProfileOpenVSwitch(
            interface_id=port, datapath_type='netdev', create_port=True))


def changed(path, value):
    """The annotation of make() with the field at path set to value."""
    annotation = json.loads(vif.dumps(make()))
    inner = annotation
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(annotation)


DATA = 'versioned_object.data'
VERSION = 'versioned_object.version'
DEFAULT = (DATA, 'default_vif')
FIRST_SUBNET = DEFAULT + (DATA, 'network', DATA, 'subnets', DATA, 'objects',
                          0)
FIRST_IP = FIRST_SUBNET + (DATA, 'ips', DATA, 'objects', 0)


class RoundTripTestCase(base.TestCase):

    def test_every_field_comes_back(self):
        back = vif.loads(vif.dumps(make())).default_vif
        self.assertIsInstance(back, osv_vif.VIFOpenVSwitch)
        self.assertEqual(PORT, back.id)
        self.assertEqual('fa:16:3e:00:00:01', back.address)
        self.assertEqual('br-int', back.bridge_name)
        self.assertEqual(PORT, back.port_profile.interface_id)
        self.assertEqual('netdev', back.port_profile.datapath_type)
        self.assertTrue(back.port_profile.create_port)
        self.assertEqual(1442, back.network.mtu)
        self.assertEqual(NETWORK, back.network.id)
        four, six = back.network.subnets.objects
        self.assertEqual('10.99.0.0/16', str(four.cidr))
        self.assertEqual('10.99.0.1', str(four.gateway))
        self.assertEqual('192.0.2.0/24', str(four.routes.objects[0].cidr))
        self.assertEqual('10.99.0.9', str(four.routes.objects[0].gateway))
        self.assertEqual('fd99::1', str(six.gateway))
        self.assertEqual(('10.99.1.2', 'fd99::1:2'), vif.addresses(back))

    def test_written_twice_is_the_same(self):
        text = vif.dumps(make())
        self.assertEqual(text, vif.dumps(vif.loads(text).default_vif))
        self.assertNotIn('changes', text)

    def test_additional(self):
        other = make(port=str(uuid.uuid4()))
        state = vif.loads(vif.dumps(make(), {'eth1': other}))
        self.assertEqual(PORT, state.default_vif.id)
        self.assertEqual({'eth1': other.id}, {
            ifname: one.id for ifname, one in state.additional_vifs.items()})

    def test_subnet_without_gateway_and_without_ips(self):
        one = make(subnets=(('10.0.0.0/8', None, ('10.1.1.1',)),))
        back = vif.loads(vif.dumps(one)).default_vif
        subnet, = back.network.subnets.objects
        self.assertFalse(subnet.obj_attr_is_set('gateway'))
        back.network.subnets.objects.append(
            osv_subnet.Subnet(cidr='10.0.0.0/8'))
        text = vif.dumps(back)
        self.assertEqual(('10.1.1.1',), vif.facts(text).addresses)
        self.assertEqual(('10.1.1.1',),
                         vif.addresses(vif.loads(text).default_vif))

    def test_bare_vif_of_an_older_kuryr(self):
        bare = json.dumps(make().obj_to_primitive())
        self.assertEqual(vif.facts(vif.dumps(make())), vif.facts(bare))
        self.assertEqual(PORT, vif.loads(bare).default_vif.id)
        self.assertEqual({}, vif.loads(bare).additional_vifs)

    @hypothesis.given(
        st.uuids(), st.uuids(), st.binary(min_size=6, max_size=6),
        st.lists(st.ip_addresses(v=4, network='10.0.0.0/8'), min_size=1,
                 max_size=4, unique=True),
        st.lists(st.ip_addresses(v=6, network='fd00::/16'), max_size=4,
                 unique=True))
    def test_facts_agree_with_the_objects(self, port, network, mac, v4, v6):
        one = make(str(port), str(network), mac.hex(':'), (
            ('10.0.0.0/8', '10.0.0.1', tuple(map(str, v4))),
            ('fd00::/16', None, tuple(map(str, v6)))))
        text = vif.dumps(one)
        facts = vif.facts(text)
        back = vif.loads(text).default_vif
        self.assertEqual(vif.Facts(
            back.id, back.address, back.network.id, vif.addresses(back)),
            facts)
        self.assertEqual(tuple(map(str, v4 + v6)), facts.addresses)

    def test_addresses_are_canonical(self):
        text = changed(FIRST_IP + (DATA, 'address'), 'FD99:0::00A')
        self.assertEqual(('fd99::a', 'fd99::1:2'), vif.facts(text).addresses)


class VersionsTestCase(base.TestCase):

    def test_written_in_the_lowest_versions_that_suffice(self):
        default = json.loads(vif.dumps(make()))[DATA]['default_vif']
        self.assertEqual('1.0', default[VERSION])
        self.assertEqual('1.3', default[DATA]['port_profile'][VERSION])
        self.assertEqual('1.1', default[DATA]['network'][VERSION])
        self.assertNotIn('create_tap', default[DATA]['port_profile'][DATA])

    def test_newer_minor_version_is_read(self):
        annotation = json.loads(vif.dumps(make()))
        profile = annotation[DATA]['default_vif'][DATA]['port_profile']
        profile[VERSION] = '1.99'
        profile[DATA]['brand_new'] = 'x'
        back = vif.loads(json.dumps(annotation)).default_vif
        self.assertEqual('netdev', back.port_profile.datapath_type)
        self.assertEqual(vif.dumps(make()), vif.dumps(back))

    def test_major_versions_are_refused(self):
        for path in ((VERSION,), DEFAULT + (DATA, 'port_profile', VERSION),
                     DEFAULT + (VERSION,)):
            self.assertRaises(exceptions.InvalidVIF, vif.loads,
                              changed(path, '2.0'))
        self.assertRaises(exceptions.InvalidVIF, vif.facts,
                          changed((VERSION,), '2.0'))


class RefusedTestCase(base.TestCase):

    def assertRefused(self, text, why):
        for read in (vif.facts, vif.loads):
            error = self.assertRaises(exceptions.InvalidVIF, read, text)
            self.assertIn(why, str(error))

    def test_not_json(self):
        self.assertRefused('{', 'not JSON')
        self.assertRefused(None, 'not JSON')
        self.assertRefused('[' * 100000, 'not JSON')

    def test_not_an_object(self):
        for text in ('[]', '"x"', 'null', '{}',
                     '{"versioned_object.data": 1}'):
            self.assertRefused(text, 'not a versioned object')

    def test_fields(self):
        for path, value, why in (
                (DEFAULT, None, 'default_vif'),
                (DEFAULT + (DATA, 'id'), '../../etc/passwd', 'id is not'),
                (DEFAULT + (DATA, 'id'), PORT.upper(), 'id is not'),
                (DEFAULT + (DATA, 'id'), 7, 'id is not'),
                (DEFAULT + (DATA, 'address'), 'fa:16:3e:00:00', 'MAC'),
                (DEFAULT + (DATA, 'address'), None, 'MAC'),
                (DEFAULT + (DATA, 'network'), None, 'network'),
                (DEFAULT + (DATA, 'network', DATA, 'id'), 'x', 'network id'),
                (DEFAULT + (DATA, 'network', DATA, 'subnets', DATA,
                            'objects'), [], 'no address'),
                (DEFAULT + (DATA, 'network', DATA, 'subnets', DATA,
                            'objects'), {}, 'not a list'),
                (FIRST_IP + (DATA, 'address'), '0.0.0.0', 'address'),
                (FIRST_IP + (DATA, 'address'), '224.0.0.1', 'address'),
                (FIRST_IP + (DATA, 'address'), '127.0.0.1', 'address'),
                (FIRST_IP + (DATA, 'address'), '255.255.255.255', 'address'),
                (FIRST_IP + (DATA, 'address'), 'fe80::1%eth0', 'address'),
                (FIRST_IP + (DATA, 'address'), '10.0.0.0/8', 'address'),
                (FIRST_IP + (DATA, 'address'), 5, 'address')):
            with self.subTest(path=path[-1], value=value):
                self.assertRefused(changed(path, value), why)

    def test_foreign_class(self):
        annotation = json.loads(vif.dumps(make()))
        annotation[DATA]['default_vif']['versioned_object.name'] = 'VIFOdd'
        self.assertRaises(exceptions.InvalidVIF, vif.loads,
                          json.dumps(annotation))
        annotation[DATA]['default_vif']['versioned_object.name'] = 'Network'
        self.assertRaises(exceptions.InvalidVIF, vif.loads,
                          json.dumps(annotation))

    def test_additional_is_not_a_mapping(self):
        self.assertRefused(changed((DATA, 'additional_vifs'), [1]),
                           'additional_vifs')

    @hypothesis.given(st.data())
    def test_whatever_is_broken_is_refused_as_ours(self, data):
        annotation = json.loads(vif.dumps(make()))
        inner, steps = annotation, []
        while isinstance(inner, (dict, list)) and inner and (
                not steps or data.draw(st.booleans())):
            steps.append(data.draw(st.sampled_from(
                sorted(inner) if isinstance(inner, dict)
                else range(len(inner)))))
            holder, inner = inner, inner[steps[-1]]
        holder[steps[-1]] = data.draw(st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda some: st.lists(some) | st.dictionaries(st.text(), some)))
        text = json.dumps(annotation)
        for read in (vif.facts, vif.loads):
            try:
                read(text)
            except exceptions.InvalidVIF:
                hypothesis.event('refused')


class LazyTestCase(base.TestCase):

    def test_facts_do_not_import_os_vif(self):
        text = vif.dumps(make())
        code = ('import sys\n'
                'from kuryr_cilium import vif\n'
                'facts = vif.facts(sys.stdin.read())\n'
                'assert "os_vif" not in sys.modules\n'
                'print(",".join(facts.addresses))\n')
        done = subprocess.run([sys.executable, '-c', code], input=text,
                              capture_output=True, text=True, check=True)
        self.assertEqual('10.99.1.2,fd99::1:2', done.stdout.strip())
