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

"""A pod's addresses, routes and neighbours, in the pod and on the host.

The node and its pods reach each other without the switch and without
Neutron's router: the host has a route to the pod's address on the pod's own
link, the pod one to the node's address, and both know the other's MAC. So
probes work when Open vSwitch doesn't.
"""

import dataclasses
import ipaddress
from typing import Iterable
from typing import Iterator
from typing import Optional

from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink
from kuryr_cilium.linux import netns as linux_netns


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """What a pod's interface is to look like.

    :ivar host_link: the link's other end, on the host.
    :ivar addresses: (address, prefix length, gateway or None).
    :ivar routes: (destination, gateway or None), none to the subnets
        themselves, which come with the addresses.
    """

    ifname: str
    mac: str
    mtu: int
    host_link: str
    addresses: tuple[tuple[str, int, Optional[str]], ...]
    routes: tuple[tuple[str, Optional[str]], ...]


def layout(vif, ifname: str, host_link: str, mtu: int) -> Layout:
    """The layout of a VIF's interface.

    The default route of a family goes through the first subnet of it that
    has a gateway. Neutron's gateway_ip is taken as it is: it may be the
    network's own address in IPv6.

    :param vif: an os-vif VIF with subnets.
    :raises: exceptions.InvalidVIF
    """
    addresses = []
    routes = {}
    for subnet in vif.network.subnets.objects:
        network = ipaddress.ip_network(str(subnet.cidr))
        gateway = None
        if subnet.obj_attr_is_set('gateway') and subnet.gateway:
            gateway = _canonical(subnet.gateway)
        fixed_ips = subnet.ips.objects if subnet.obj_attr_is_set('ips') else ()
        addresses.extend((_canonical(ip.address), network.prefixlen, gateway)
                         for ip in fixed_ips)
        if not fixed_ips:
            continue
        if gateway:
            routes.setdefault('0.0.0.0/0' if network.version == 4 else '::/0',
                              gateway)
        if subnet.obj_attr_is_set('routes'):
            for route in subnet.routes.objects:
                routes.setdefault(
                    str(ipaddress.ip_network(str(route.cidr))),
                    _canonical(route.gateway) if route.obj_attr_is_set(
                        'gateway') and route.gateway else None)
    if not addresses:
        raise exceptions.InvalidVIF(reason='it names no address')
    # NOTE: a gateway may itself be reached by a route on the link.
    ordered = sorted(routes.items(), key=lambda item: item[1] is not None)
    return Layout(ifname, vif.address, mtu, host_link, tuple(addresses),
                  tuple(ordered))


def configure(netns: str, wanted: Layout, node_ips: Iterable[str]) -> None:
    """Make a pod's interface, which is down or half made, what it should be.

    :param netns: path of the pod's network namespace.
    :param node_ips: the node's addresses that its pods reach directly.
    :raises: exceptions.LinkError, exceptions.NetnsGone
    """
    with netlink.Netlink() as net:
        host_mac = net.require(wanted.host_link).mac
    linux_netns.run(netns, _configure, wanted, tuple(node_ips), host_mac)


def connect_host(wanted: Layout, node_ips: Iterable[str]) -> None:
    """Give the host its routes to a pod. They go with the pod's link.

    :raises: exceptions.LinkError
    """
    with netlink.Netlink() as net:
        for address, source in _pairs(wanted, node_ips):
            net.replace_neighbour(address, wanted.mac, wanted.host_link)
            net.replace_route(_host(address), wanted.host_link,
                              source=source)


def problem(netns: str, wanted: Layout,
            node_ips: Iterable[str]) -> Optional[str]:
    """None if pod and host are as they were made, else what is wrong."""
    node_ips = tuple(node_ips)
    with netlink.Netlink() as net:
        link = net.link(wanted.host_link)
        if link is None:
            return 'link %s is missing' % wanted.host_link
        routes = net.routes(wanted.host_link)
        for address, _ in _pairs(wanted, node_ips):
            if (_host(address), None) not in routes:
                return 'the host has no route to %s' % address
    try:
        return linux_netns.run(netns, _problem, wanted, node_ips, link.mac)
    except exceptions.NetnsGone as error:
        return str(error)


def _configure(wanted, node_ips, host_mac):
    """Runs in the pod's namespace."""
    with netlink.Netlink() as net:
        net.set_up('lo')
        net.set_up(wanted.ifname)
        for address, prefix_length, _ in wanted.addresses:
            net.add_address(wanted.ifname, address, prefix_length)
        for address in _reachable(wanted, node_ips):
            net.replace_neighbour(address, host_mac, wanted.ifname)
            net.replace_route(_host(address), wanted.ifname)
        for destination, gateway in wanted.routes:
            net.replace_route(destination, wanted.ifname, gateway,
                              onlink=not _on_link(gateway, wanted))


def _problem(wanted, node_ips, host_mac):
    """Runs in the pod's namespace."""
    with netlink.Netlink() as net:
        link = net.link(wanted.ifname)
        if link is None:
            return 'the pod has no interface %s' % wanted.ifname
        if not link.up:
            return 'interface %s is down' % wanted.ifname
        if link.mac != wanted.mac or link.mtu != wanted.mtu:
            return 'interface %s has MAC %s and MTU %d, not %s and %d' % (
                wanted.ifname, link.mac, link.mtu, wanted.mac, wanted.mtu)
        present = set(net.addresses(wanted.ifname))
        for address, _, _ in wanted.addresses:
            if address not in present:
                return 'interface %s lacks address %s' % (wanted.ifname,
                                                          address)
        routes = net.routes(wanted.ifname)
        neighbours = net.neighbours(wanted.ifname)
        for address in _reachable(wanted, node_ips):
            if (_host(address), None) not in routes:
                return 'the pod has no route to its node, %s' % address
            if neighbours.get(address) != host_mac:
                return 'the pod does not know the MAC of its node, %s' % (
                    address)
        for route in wanted.routes:
            if route not in routes:
                return 'the pod has no route to %s via %s' % route
    return None


def _pairs(wanted, node_ips) -> Iterator[tuple[str, str]]:
    """(pod's address, node's address) of the same family."""
    by_version = {ipaddress.ip_address(ip).version: ip for ip in node_ips}
    for address, _, _ in wanted.addresses:
        node_ip = by_version.get(ipaddress.ip_address(address).version)
        if node_ip:
            yield address, node_ip


def _reachable(wanted, node_ips):
    """The node's addresses in the pod's families."""
    return dict.fromkeys(node_ip for _, node_ip in _pairs(wanted, node_ips))


def _on_link(gateway, wanted):
    """Whether a gateway is None or in one of the pod's subnets."""
    return gateway is None or any(
        ipaddress.ip_address(gateway) in ipaddress.ip_interface(
            '%s/%d' % (address, prefix_length)).network
        for address, prefix_length, _ in wanted.addresses)


def _host(address):
    """The network of one address."""
    return str(ipaddress.ip_network(address))


def _canonical(address):
    return str(ipaddress.ip_address(str(address)))
