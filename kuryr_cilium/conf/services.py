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

"""Options of services."""

from oslo_config import cfg
from oslo_config import types

GROUP = cfg.OptGroup(
    'services', title='Services',
    help='Addresses of services that pods ask.')

OPTS = [
    cfg.BoolOpt(
        'enabled', default=True,
        help='Lead what pods send to the address of a service to one of its '
             'backends, on the pod\'s own link. Switched off, the agent '
             'knows of no service, and something else on the way of the '
             'packets has to; kube-proxy alone is not, as it sees only what '
             'the node itself routes.'),
    cfg.BoolOpt(
        'replace_kube_proxy', default=True,
        help='Serve also what the node itself and its pods with hostNetwork '
             'send to services, and what comes to services from outside. '
             'Switched off, both are left to kube-proxy; what pods send to '
             'services is still served here.'),
    cfg.BoolOpt(
        'pod_sockets', default=True,
        help='Lead a TCP connection of a pod to a backend when it is made, '
             'as the node\'s own, so that its packets need no translation. '
             'Switched off, each packet is translated on the pod\'s link: '
             'for pods in which somebody else goes by the addresses of '
             'services, as the sidecars of a service mesh do. Without '
             'replace_kube_proxy it is off.'),
    cfg.ListOpt(
        'uplinks', default=[],
        help='Names of the devices by which packets for services come from '
             'outside, and by which backends on other nodes are reached. By '
             'default those by which routes lead to a router, and those '
             'that have [agent] node_ips.'),
    cfg.StrOpt(
        'cgroup_dir', default='',
        help='The root of the node\'s cgroup version 2 hierarchy. By default '
             'where it is mounted. In a container it has to be the host\'s, '
             'mounted into it.'),
    cfg.Opt(
        'source_ports', default='61000-65535',
        type=types.String(regex=r'^\d{1,5}-\d{1,5}$'),
        help='Ports from which this node sends what comes from outside to '
             'backends on other nodes, under its own address. They must be '
             'outside of net.ipv4.ip_local_port_range.'),
    cfg.Opt(
        'node_ports', default='30000-32767',
        type=types.String(regex=r'^\d{1,5}-\d{1,5}$'),
        help='The range of ports that the API server gives to services on '
             'nodes (its --service-node-port-range).'),
    cfg.Opt(
        'self_address4', default='169.254.42.1',
        type=types.IPAddress(version=4),
        help='The address under which a pod that asks a service, and is its '
             'backend, sees itself. It must be nobody\'s.'),
    cfg.Opt(
        'self_address6', default='fd6b:632d:7365:6c66::1',
        type=types.IPAddress(version=6),
        help='The same for IPv6.'),
]


def register_opts(conf):
    """Register the options of the group [services]."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    """The options by group, for oslo-config-generator."""
    return {GROUP: OPTS}
