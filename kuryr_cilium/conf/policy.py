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

"""Options of what policies mean."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'policy', title='Policy',
    help='What policies mean where they leave it to the operator. All '
         'controllers of a cluster need the same values.')

OPTS = [
    cfg.ListOpt(
        'exempt_namespaces', default=['kube-system'],
        help='Namespaces whose pods a cluster-wide policy that can not be '
             'expressed does not isolate: what the cluster itself needs to '
             'run. A cluster-wide policy that can be expressed selects them '
             'like all others.'),
    cfg.BoolOpt(
        'allow_egress_to_own_node', default=False,
        help='Let pods whose egress is isolated reach the node they run on, '
             'unless a policy denies it. The documentation of Kubernetes '
             'says that such traffic is always allowed; most rules that '
             'isolate egress mean to forbid it.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
