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

"""Options of the agent."""

import os
import socket

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'agent', title='Agent',
    help='What kuryr-cilium-agent is and where it keeps its files.')

OPTS = [
    cfg.StrOpt(
        'host', sample_default='node-1',
        default=os.environ.get('KURYR_CILIUM_HOST') or socket.gethostname(),
        help='Name of this node as Kubernetes knows it (metadata.name of '
             'the Node) and as Neutron knows it (external_ids:hostname in '
             'Open_vSwitch, or the agent\'s host). All three have to agree: '
             'where "kubectl get nodes" shows another name than "hostname", '
             'set this option (or KURYR_CILIUM_HOST in the environment).'),
    cfg.ListOpt(
        'node_ips', default=[], item_type=cfg.types.IPAddress(),
        sample_default='192.0.2.11,2001:db8::11',
        help='The addresses from which this node talks to its own pods, at '
             'most one of IPv4 and one of IPv6. Left empty: the source '
             'addresses of the default routes. Set it on a node with '
             'several networks, to what kubelet has in --node-ip.'),
    cfg.StrOpt(
        'state_dir', default='/var/lib/kuryr-cilium',
        help='Folder of what must survive a reboot: the records of what is '
             'plugged and the last policy view. It has to be on a disk of '
             'this node. In a container, mount it from the host.'),
    cfg.StrOpt(
        'run_dir', default='/run/kuryr-cilium',
        help='Folder of the sockets of the CNI server (cni.sock) and of the '
             'local API (api.sock). In a container, mount it from the host, '
             'and keep it equal to what kuryr-cilium-cni uses.'),
    cfg.FloatOpt(
        'resync_interval', default=60.0, min=1.0,
        help='Seconds between two complete comparisons with the controller, '
             'give or take a fifth. Changes come at once by messages; this '
             'heals what a lost message left. Lower it only for tests.'),
    cfg.FloatOpt(
        'sweep_interval', default=300.0, min=5.0,
        help='Seconds between two searches for pods whose network namespace '
             'is gone without a DEL. Their ports are unplugged and reported '
             'released.'),
    cfg.FloatOpt(
        'report_interval', default=60.0, min=1.0,
        help='Seconds between two reports to the controller of the ports '
             'that are plugged here.'),
    cfg.StrOpt(
        'health_address', default='127.0.0.1:9801',
        help='ADDRESS:PORT of /metrics (Prometheus), /healthz (is the '
             'process alive) and /readyz (can it plug a pod now, and why '
             'not). Nothing there is secret, but bind it to an address only '
             'your monitoring reaches.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
