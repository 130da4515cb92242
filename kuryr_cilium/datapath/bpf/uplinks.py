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

"""The devices by which clients outside reach services on this node.

Their links are pinned as those of pods are, in a folder of a device's index:
they hold while no process does, and one whose device is gone goes with the
next look at what there is.
"""

import os
from typing import Mapping, NamedTuple

from oslo_log import log as logging

from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import links
from kuryr_cilium.datapath.bpf import outside
from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink
from kuryr_cilium.linux import sysctl

LOG = logging.getLogger(__name__)

#: What leaves first: what comes in is not led on before.
HOOKS = (
    links.Hook('to_uplink', 'uplink', libbpf.TCX_EGRESS),
    links.Hook('from_uplink', 'uplink', libbpf.TCX_INGRESS),
)

_PORT_RANGE = 'net/ipv4/ip_local_port_range'


class Uplink(NamedTuple):
    """An interface index."""

    uplink: int


class Uplinks:
    """The links on all uplinks.

    :param conf: the options of the group [services].
    :param programs: file descriptors by name.
    :param node_ips: addresses of the node by which it sends to other nodes.
    """

    def __init__(self, conf, pin_dir: str, programs: Mapping[str, int],
                 addresses: outside.Addresses, node_ips: tuple[str, ...]):
        self._links = links.Links(os.path.join(pin_dir, 'uplinks'), programs,
                                  HOOKS, Uplink)
        self._names = tuple(conf.uplinks)
        self._wanted = conf.enabled and conf.replace_kube_proxy
        self._node_ips = node_ips
        self._ports = _ports(conf.source_ports)
        self._problems: set[str] = set()
        self._told: frozenset[str] = frozenset()
        addresses.set_exit(node_ips, self._ports)
        # What an earlier process attached gets the present programs.
        self._links.update()

    def refresh(self) -> None:
        """Be attached to the uplinks that there are now, and to no other.

        :raises: exceptions.DatapathError, exceptions.LinkError
        """
        found = self._find() if self._wanted else {}
        for index, name in found.items():
            if not self._links.whole(str(index), Uplink(index)):
                self._links.attach(str(index), Uplink(index))
                LOG.info('Services are reached from outside by %s', name)
        for known in self._links.known() - set(map(str, found)):
            self._links.detach(known)
            LOG.info('Services are reached by interface %s no more', known)
        if self._wanted:
            self._tell(found.values())

    def _find(self):
        """Name by index of the uplinks."""
        found: dict[int, str] = {}
        self._problems.clear()
        with netlink.Netlink() as net:
            for name in self._names or net.uplinks(self._node_ips):
                link = net.link(name)
                if link is None:
                    self._problems.add(
                        f'[services] uplinks: there is no device {name}')
                elif not net.ethernet(name):
                    self._problems.add(
                        f'services are not reached by {name}: it carries '
                        'no Ethernet frames')
                else:
                    found[link.index] = name
        if not found:
            self._problems.add('services are not reached from outside: there '
                               'is no device for it; set [services] uplinks')
        return found

    def _tell(self, names):
        """Log what is in the way, when it is not as it was."""
        problems = frozenset((*self._problems, *self._settings(names)))
        for problem in sorted(problems - self._told):
            LOG.warning('Services from outside: %s', problem)
        self._told = problems

    def _settings(self, names):
        """What the operator has to set."""
        wanted = ['net/ipv4/ip_forward']
        if sysctl.read(wanted[0]) != [0]:
            wanted = [f'net/ipv4/conf/{name}/forwarding' for name in names]
        if any(':' in address for address in self._node_ips):
            wanted.append('net/ipv6/conf/all/forwarding')
        for setting in wanted:
            if sysctl.read(setting) == [0]:
                yield (f'the node does not forward: sysctl -w {setting}=1' + (
                    ' (and net/ipv6/conf/DEVICE/accept_ra=2 if the node has '
                    'its routes by router advertisements)'
                    if 'ipv6' in setting else ''))
        own = sysctl.read(_PORT_RANGE)
        if own and own[0] <= self._ports[1] and self._ports[0] <= own[1]:
            yield ('[services] source_ports %d-%d has ports that the node '
                   'gives to connections of its own: sysctl -w %s="%d %d"' % (
                       *self._ports, _PORT_RANGE, own[0],
                       self._ports[0] - 1))


def _ports(text):
    """The first and the last one of a range."""
    first, last = map(int, text.split('-'))
    if not 0 < first <= last < 65536:
        raise exceptions.DatapathError(
            reason=f'[services] source_ports is {text}, and has to be a '
                   'range within 1-65535')
    return first, last
