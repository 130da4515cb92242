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

"""VIFs as Neutron's ports become in the controller."""

from os_vif import objects
from os_vif.objects import fixed_ip
from os_vif.objects import network as osv_network
from os_vif.objects import route
from os_vif.objects import subnet
from os_vif.objects import vif as osv_vif
from oslo_utils import uuidutils

#: A subnet: (CIDR, gateway, addresses, [(destination, gateway)]).
SUBNETS = (('10.99.0.0/16', '10.99.0.1', ('10.99.3.7',), ()),
           ('fd99::/64', 'fd99::', ('fd99::3:7',), ()))


def make(vif_id=None, subnets=SUBNETS, mtu=1442, bridge='br-int',
         mac='fa:16:3e:00:03:07'):
    """A VIFOpenVSwitch."""
    objects.register_all()
    vif_id = vif_id or uuidutils.generate_uuid()
    return osv_vif.VIFOpenVSwitch(
        id=vif_id, address=mac, plugin='ovs', vif_name='tap' + vif_id[:11],
        bridge_name=bridge, has_traffic_filtering=True, active=True,
        preserve_on_delete=False,
        port_profile=osv_vif.VIFPortProfileOpenVSwitch(
            interface_id=vif_id, create_port=True, datapath_type='netdev'),
        network=make_network(subnets, mtu, bridge))


def make_hybrid():
    """What ovs_hybrid_plug asks for."""
    made = make()
    return osv_vif.VIFBridge(
        id=made.id, address=made.address, plugin='ovs',
        vif_name=made.vif_name, bridge_name='qbr' + made.id[:11],
        port_profile=made.port_profile, network=made.network)


def make_network(subnets=SUBNETS, mtu=1442, bridge='br-int'):
    """A Network."""
    return osv_network.Network(
        id=uuidutils.generate_uuid(), bridge=bridge, mtu=mtu,
        subnets=subnet.SubnetList(objects=[
            _subnet(*fields) for fields in subnets]))


def _subnet(cidr, gateway, addresses, routes):
    made = subnet.Subnet(
        cidr=cidr, dns=[],
        ips=fixed_ip.FixedIPList(objects=[
            fixed_ip.FixedIP(address=address) for address in addresses]),
        routes=route.RouteList(objects=[
            route.Route(cidr=destination, gateway=via)
            for destination, via in routes]))
    if gateway:
        made.gateway = gateway
    return made
