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

"""Options of Neutron: how to reach it, and what pods get of it."""

from keystoneauth1 import loading as ks_loading
from oslo_config import cfg

GROUP = cfg.OptGroup(
    'neutron', title='Neutron',
    help='Access to Neutron and the network of pods. Credentials are those '
         'of keystoneauth (auth_type, auth_url, username ...). The user has '
         'to see binding attributes of ports and to set binding:host_id: an '
         'admin or a service role. For a Neutron without Keystone set '
         'auth_type = none and endpoint_override to its root URL.')

OPTS = [
    cfg.StrOpt(
        'pod_network',
        help='Name or id of the network that pods are connected to. '
             'Required by kuryr-cilium-controller. Use the id if other '
             'networks may have the same name.'),
    cfg.ListOpt(
        'pod_subnets', default=[],
        help='Names or ids of the subnets that pods get addresses from. A '
             'pod gets one address of each IP version; where several '
             'subnets have the same version, the next is taken when one is '
             'full. By default Neutron chooses among all of the network.'),
    cfg.ListOpt(
        'pod_security_groups', default=[],
        help='Ids of the security groups of pods\' ports. Recommended is one '
             'stateless group (stateful=False) that allows everything: '
             'Kubernetes policy is not enforced by Neutron, its '
             'anti-spoofing stays. By default Neutron puts ports into the '
             'project\'s default group, which lets in nothing from outside '
             'the group.'),
    cfg.IntOpt(
        'network_refresh', default=60, min=1,
        help='Seconds after which what is known of the pod network and its '
             'subnets (MTU, gateways, routes) is read again. It is used for '
             'pods that are created later.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)
    ks_loading.register_auth_conf_options(conf, GROUP.name)
    ks_loading.register_session_conf_options(conf, GROUP.name)
    ks_loading.register_adapter_conf_options(conf, GROUP.name)
    conf.set_default('service_type', 'network', group=GROUP.name)
    conf.set_default('valid_interfaces', ['internal', 'public'],
                     group=GROUP.name)
    conf.set_default('timeout', 60, group=GROUP.name)


def list_opts():
    return {GROUP: (
        OPTS + ks_loading.get_auth_common_conf_options() +
        ks_loading.get_session_conf_options() +
        ks_loading.get_adapter_conf_options(include_deprecated=False) +
        ks_loading.get_auth_plugin_conf_options('password'))}
