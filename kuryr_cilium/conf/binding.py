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

"""[binding]: how VIFs are bound on this node."""

from oslo_config import cfg

GROUP = cfg.OptGroup('binding', title='Binding of VIFs on a node')

OPTS = [
    cfg.StrOpt(
        'driver', default='ovs',
        help='Name of the binding driver (entry point of the namespace '
             'kuryr_cilium.binding). ovs plugs into Open vSwitch with os-vif, '
             'for ML2/OVN and ML2/OVS, kernel and userspace bridges.'),
    cfg.StrOpt(
        'ovsdb_connection', default='unix:/run/openvswitch/db.sock',
        help='Where the node\'s own ovsdb-server listens, as ovs-vsctl --db '
             'takes it. Mount the socket\'s folder into the agent\'s '
             'container.'),
    cfg.IntOpt(
        'ovsdb_timeout', default=10, min=1,
        help='Seconds to wait for ovsdb-server and ovs-vswitchd to carry out '
             'one change. Raise it on nodes where ovs-vswitchd takes long to '
             'add a port.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
