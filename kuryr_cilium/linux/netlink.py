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

"""Links, addresses, routes and neighbours of a network namespace.

A :class:`Netlink` works in the namespace of the thread that opened it: the
host's, or a pod's within :func:`kuryr_cilium.linux.netns.run`. Opening one
takes under a millisecond, so nothing is shared between threads. What is
already as asked for is not an error.
"""

import dataclasses
import errno
import ipaddress
import socket
from typing import Iterable
from typing import Iterator
from typing import Optional

import pyroute2
from pyroute2.netlink import exceptions as netlink_exceptions

from kuryr_cilium import exceptions

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_ARPHRD_ETHER = 1
_IFA_F_NODAD = 0x02
_RTNH_F_ONLINK = 4
_RT_TABLE_MAIN = 254
_RT_SCOPE_UNIVERSE = 0
_RTN_UNICAST = 1
#: What a look-up of a route says where none leads on.
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES,
                errno.EINVAL)
_IFNAMSIZ = 16

#: Documentation addresses (RFC 5737, RFC 3849): which way is out?
_OUTSIDE = {4: '192.0.2.1', 6: '2001:db8::1'}


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel reports it."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool


def check_name(name: str) -> str:
    """The name, if the kernel would take it for a link (dev_valid_name).

    :raises: exceptions.LinkError; names come from the container runtime and
        become parts of paths.
    """
    if (not name or len(name.encode()) >= _IFNAMSIZ or name in ('.', '..') or
            '/' in name or ':' in name or any(c.isspace() for c in name)):
        raise exceptions.LinkError(what='use the name %.32r' % name,
                                   reason='it is no name for an interface')
    return name


class Netlink:
    """Requests to the kernel, in the opening thread's network namespace."""

    def __init__(self):
        self._ip = pyroute2.IPRoute()

    def __enter__(self) -> 'Netlink':
        return self

    def __exit__(self, *exc_info) -> None:
        self._ip.close()

    def _request(self, what, tolerated, call, *args, **kwargs):
        try:
            return list(call(*args, **kwargs) or ())
        except netlink_exceptions.NetlinkError as error:
            if error.code in tolerated:
                return None
            raise exceptions.LinkError(
                what=what, reason=error.args[1]) from error

    # Links

    def link(self, name: str) -> Optional[Link]:
        """The link of a name, or None."""
        found = self._request('read link %s' % name, (errno.ENODEV,),
                              self._ip.link, 'get', ifname=check_name(name))
        if not found:
            return None
        return Link(found[0]['index'], found[0].get('ifname'),
                    found[0].get('address'), found[0].get('mtu'),
                    bool(found[0]['flags'] & _IFF_UP))

    def names(self) -> list[str]:
        """The names of all links."""
        return [message.get('ifname') for message
                in self._request('list links', (), self._ip.get_links)]

    def require(self, name: str) -> Link:
        """The link of a name.

        :raises: exceptions.LinkError if there is none.
        """
        link = self.link(name)
        if link is None:
            raise exceptions.LinkError(what='find link %s' % name,
                                       reason='no such device')
        return link

    def add_veth(self, name: str, peer: str, mtu: int,
                 peer_mac: Optional[str] = None,
                 peer_netns: Optional[int] = None) -> None:
        """Make a veth pair, both ends down.

        :param peer_netns: file descriptor of the namespace in which the peer
            is made; the same one by default.
        :raises: exceptions.LinkError, also if a name is taken.
        """
        peer_fields = {'ifname': check_name(peer), 'mtu': mtu}
        if peer_mac:
            peer_fields['address'] = peer_mac
        if peer_netns is not None:
            peer_fields['net_ns_fd'] = peer_netns
        self._request('make links %s and %s' % (name, peer), (),
                      self._ip.link, 'add', ifname=check_name(name),
                      kind='veth', mtu=mtu, peer=peer_fields)

    def delete_link(self, name: str) -> bool:
        """Delete a link (and a veth's peer). True if there was one."""
        link = self.link(name)
        if link is None:
            return False
        return self._request('delete link %s' % name, (errno.ENODEV,),
                             self._ip.link, 'del',
                             index=link.index) is not None

    def set_up(self, name: str) -> None:
        """Bring a link up."""
        self._set_state(name, 'up')

    def set_down(self, name: str) -> None:
        """Bring a link down; its routes and neighbours go with that."""
        self._set_state(name, 'down')

    def _set_state(self, name, state):
        self._request('bring link %s %s' % (name, state), (), self._ip.link,
                      'set', index=self.require(name).index, state=state)

    # Addresses

    def add_address(self, device: str, address: str,
                    prefix_length: int) -> None:
        """Give a link an address, usable at once (no DAD for IPv6)."""
        fields = {}
        if ipaddress.ip_address(address).version == 6:
            fields['flags'] = _IFA_F_NODAD
        self._request('add address %s/%d to %s' % (
            address, prefix_length, device), (errno.EEXIST,), self._ip.addr,
            'add', index=self.require(device).index, address=address,
            prefixlen=prefix_length, **fields)

    def addresses(self, device: Optional[str] = None) -> Iterator[str]:
        """Canonical addresses of a link, or of every link."""
        fields = {}
        if device is not None:
            fields['index'] = self.require(device).index
        for message in self._request('list addresses', (),
                                     self._ip.get_addr, **fields):
            yield str(ipaddress.ip_address(
                message.get('local') or message.get('address')))

    def global_addresses(self) -> Iterator[str]:
        """Addresses of global scope on any link but the loopback."""
        for message in self._request('list addresses', (),
                                     self._ip.get_addr,
                                     scope=_RT_SCOPE_UNIVERSE):
            address = ipaddress.ip_address(
                message.get('local') or message.get('address'))
            if not address.is_loopback:
                yield str(address)

    # Routes and neighbours

    def replace_route(self, destination: str, device: str,
                      gateway: Optional[str] = None,
                      source: Optional[str] = None,
                      onlink: bool = False) -> None:
        """Set the route of the main table to a destination.

        :param destination: a network in CIDR form.
        :param gateway: None for what the link reaches itself.
        :param source: what the host's own packets are sent from.
        :param onlink: the gateway is a neighbour though no subnet of the
            link holds it.
        """
        fields = {'dst': destination, 'oif': self.require(device).index,
                  'table': _RT_TABLE_MAIN}
        version = ipaddress.ip_network(destination).version
        fields['family'] = _family(version)
        if gateway:
            fields['gateway'] = gateway
            if onlink:
                fields['flags'] = _RTNH_F_ONLINK
        elif version == 4:
            fields['scope'] = 'link'
        if source:
            fields['prefsrc'] = source
        self._request('set route %s via %s dev %s%s' % (
            destination, gateway or '-', device,
            ' src %s' % source if source else ''), (), self._ip.route,
            'replace', **fields)

    def routes(self, device: str) -> set[tuple[str, Optional[str]]]:
        """(destination, gateway) of a link's routes in the main table."""
        index = self.require(device).index
        found = set()
        for version, everything in ((4, '0.0.0.0'), (6, '::')):
            for message in self._request(
                    'list routes', (), self._ip.get_routes,
                    family=_family(version), table=_RT_TABLE_MAIN,
                    oif=index):
                network = ipaddress.ip_network('%s/%d' % (
                    message.get('dst') or everything, message['dst_len']))
                found.add((str(network), message.get('gateway')))
        return found

    def replace_neighbour(self, address: str, mac: str, device: str) -> None:
        """Set a permanent neighbour: nothing is asked of the network."""
        self._request('set neighbour %s of %s' % (address, device), (),
                      self._ip.neigh, 'replace', dst=address, lladdr=mac,
                      ifindex=self.require(device).index, state='permanent',
                      family=_family(ipaddress.ip_address(address).version))

    def neighbours(self, device: str) -> dict[str, str]:
        """MAC by address of a link's neighbours."""
        index = self.require(device).index
        return {str(ipaddress.ip_address(message.get('dst'))):
                message.get('lladdr')
                for family in (socket.AF_INET, socket.AF_INET6)
                for message in self._request(
                    'list neighbours', (), self._ip.get_neighbours,
                    family=family, ifindex=index)
                if message.get('lladdr')}

    def uplinks(self, addresses: Iterable[str]) -> set[str]:
        """Names of the links that lead out of this host.

        Those by which routes of the main table lead to a router, and those
        that have one of some addresses.
        """
        wanted, found = set(addresses), set()
        for message in self._request('list addresses', (),
                                     self._ip.get_addr):
            address = message.get('local') or message.get('address')
            if str(ipaddress.ip_address(address)) in wanted:
                found.add(message['index'])
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._request(
                    'list routes', (), self._ip.get_routes, family=family,
                    table=_RT_TABLE_MAIN):
                if message.get('gateway') or message.get('via'):
                    found.add(message.get('oif'))
                for hop in message.get('multipath') or ():
                    found.add(hop['oif'])
        return {message.get('ifname') for message
                in self._request('list links', (), self._ip.get_links)
                if message['index'] in found
                and not message['flags'] & _IFF_LOOPBACK}

    def ethernet(self, name: str) -> bool:
        """Whether what a link carries are Ethernet frames."""
        found = self._request('read link %s' % name, (errno.ENODEV,),
                              self._ip.link, 'get', ifname=check_name(name))
        return bool(found) and found[0]['ifi_type'] == _ARPHRD_ETHER

    def way_to(self, address: str) -> Optional[str]:
        """By which way this host sends to an address.

        :returns: as 'via 10.0.0.1 dev eth0'; None if there is none, or if it
            ends on this host.
        """
        version = ipaddress.ip_address(address).version
        found = self._request(
            'read the route to %s' % address, _UNREACHABLE, self._ip.route,
            'get', dst=address, family=_family(version))
        if not found or found[0]['type'] != _RTN_UNICAST:
            return None
        link = self._request('read a link', (), self._ip.get_links,
                             found[0].get('oif'))[0]
        gateway = found[0].get('gateway') or (
            found[0].get('via') or {}).get('addr')
        return '%sdev %s' % ('via %s ' % gateway if gateway else '',
                             link.get('ifname'))

    def source(self, version: int) -> Optional[str]:
        """The address from which this host reaches the outside.

        :param version: 4 or 6.
        :returns: the default route's source; without a default route the
            first address of global scope; None if there is none.
        """
        found = self._request(
            'read the default route', _UNREACHABLE, self._ip.route, 'get',
            dst=_OUTSIDE[version], family=_family(version))
        if found and found[0].get('prefsrc'):
            return found[0].get('prefsrc')
        for address in self.global_addresses():
            if ipaddress.ip_address(address).version == version:
                return address
        return None


def addresses() -> set[str]:
    """Every address of this host."""
    with Netlink() as netlink:
        return set(netlink.addresses())


def default_source(version: int) -> Optional[str]:
    """See :meth:`Netlink.source`."""
    with Netlink() as netlink:
        return netlink.source(version)


def _family(version):
    return socket.AF_INET if version == 4 else socket.AF_INET6
