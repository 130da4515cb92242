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

"""From Neutron's port to os-vif's VIF. Pure."""

from os_vif import objects as osv_objects
from os_vif.objects import fixed_ip as osv_fixed_ip
from os_vif.objects import network as osv_network
from os_vif.objects import route as osv_route
from os_vif.objects import subnet as osv_subnet
from os_vif.objects import vif as osv_vif

from kuryr_cilium import exceptions

osv_objects.register_all()

_NOT_OVS = {
    'unbound': 'it is not bound to a host.',
    'vhostuser': 'its host offers vhost-user sockets only (Open vSwitch with '
                 'DPDK), and pods need a link of the kernel.',
    'bridge': 'its host binds ports to a Linux bridge; use ML2/OVN or '
              'ML2/OVS.',
}


def make(port: dict, network: dict, subnets: dict) -> osv_vif.VIFOpenVSwitch:
    """The VIF of a bound port.

    :param port: port of the API, with binding attributes.
    :param network: its network.
    :param subnets: subnets by id, at least those of its addresses.
    :raises: exceptions.PortNotSupported with what to change.
    """
    details = port.get('binding:vif_details') or {}
    _check(port, details)
    # NOTE: os-vif rewrites an existing bridge to the type that it is given,
    # "system" if none. Neutron leaves it out only where it doesn't know.
    datapath = details.get('datapath_type') or 'system'
    bridge = details.get('bridge_name') or 'br-int'
    return osv_vif.VIFOpenVSwitch(
        id=port['id'], address=port['mac_address'].lower(), plugin='ovs',
        active=port['status'] == 'ACTIVE', vif_name='tap' + port['id'][:11],
        bridge_name=bridge, preserve_on_delete=False,
        has_traffic_filtering=bool(details.get('port_filter')),
        network=osv_network.Network(
            id=network['id'], bridge=bridge, label=network['name'],
            mtu=network['mtu'], subnets=_subnets(port, subnets)),
        port_profile=osv_vif.VIFPortProfileOpenVSwitch(
            interface_id=port['id'], datapath_type=datapath,
            create_port=True))


def _check(port, details):
    reason = None
    vif_type = port.get('binding:vif_type')
    if vif_type != 'ovs':
        reason = _NOT_OVS.get(
            vif_type, 'its VIF type is %s, and only ovs is known.' % vif_type)
    elif details.get('ovs_hybrid_plug'):
        reason = ('its agent filters with iptables on a Linux bridge. Set '
                  'firewall_driver = openvswitch (or noop) in [securitygroup]'
                  ' of neutron-openvswitch-agent on that host.')
    elif not port['fixed_ips']:
        reason = 'it has no address: the network needs a subnet.'
    if reason:
        raise exceptions.PortNotSupported(
            port=port['id'], host=port.get('binding:host_id'), reason=reason)


def _subnets(port, subnets):
    made = {}
    for fixed_ip in port['fixed_ips']:
        subnet_id = fixed_ip['subnet_id']
        if subnet_id not in made:
            made[subnet_id] = _subnet(subnets[subnet_id])
        made[subnet_id].ips.objects.append(
            osv_fixed_ip.FixedIP(address=fixed_ip['ip_address']))
    return osv_subnet.SubnetList(objects=list(made.values()))


def _subnet(subnet):
    made = osv_subnet.Subnet(
        cidr=subnet['cidr'], dns=subnet['dns_nameservers'],
        routes=osv_route.RouteList(objects=[
            osv_route.Route(cidr=route['destination'],
                            gateway=route['nexthop'])
            for route in subnet['host_routes']]),
        ips=osv_fixed_ip.FixedIPList(objects=[]))
    if subnet['gateway_ip']:
        made.gateway = subnet['gateway_ip']
    return made
