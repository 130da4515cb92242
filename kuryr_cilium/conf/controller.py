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

"""Options of the controller."""

import socket

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'controller', title='Controller',
    help='What kuryr-cilium-controller is. Several of them may run: all '
         'answer agents, one of them leads and makes ports.')

OPTS = [
    cfg.StrOpt(
        'host', default=socket.gethostname(), sample_default='controller-1',
        help='Name of this replica, unique among all replicas and the same '
             'after a restart: the names of its queues in RabbitMQ are '
             'made of it.'),
    cfg.StrOpt(
        'cluster_name', default='default', regex=r'^[A-Za-z0-9._-]{1,32}$',
        help='Name of this Kubernetes cluster in the tags of its ports in '
             'Neutron. It has to differ between clusters that share a '
             'Neutron: ports with this name whose pod is not in this '
             'cluster are deleted. Do not change it while there are pods.'),
    cfg.StrOpt(
        'lease_namespace', default='kube-system',
        help='Namespace of the Lease by which the replicas elect their '
             'leader.'),
    cfg.StrOpt(
        'lease_name', default='kuryr-cilium-controller',
        help='Name of that Lease. The RBAC rules in deploy/base name it, '
             'too. Do not delete the Lease: agents ignore a leader with a '
             'lower number of transitions than the last.'),
    cfg.IntOpt(
        'port_workers', default=8, min=1, max=64,
        help='How many ports are made at the same time. More of them help '
             'only as far as the Neutron servers have workers.'),
    cfg.IntOpt(
        'collect_interval', default=600, min=10,
        help='Seconds between two searches for ports of this cluster that '
             'belong to no pod.'),
    cfg.IntOpt(
        'facts_interval', default=30, min=1,
        help='Seconds between two looks at what Neutron enforces on ports '
             '(security groups, QoS, admin state). So long it may take until '
             'a change of it is heeded between pods of one node.'),
    cfg.StrOpt(
        'health_address', default='127.0.0.1:9802',
        help='Address and port for /metrics, /healthz and /readyz.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
