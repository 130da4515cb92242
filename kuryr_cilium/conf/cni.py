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

"""Options of the CNI server."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'cni', title='CNI server',
    help='How the agent answers what kuryr-cilium-cni hands over.')

OPTS = [
    cfg.FloatOpt(
        'add_timeout', default=40.0, min=1.0, max=55.0,
        help='Seconds that an ADD may take in all; then it fails with the '
             'name of what it waited for, and kubelet tries again. Keep it '
             'below the client\'s deadline (60 seconds, "timeout" in the '
             'network configuration) and the container runtime\'s.'),
    cfg.IntOpt(
        'max_adds', default=32, min=1,
        help='How many ADDs are worked on at the same time. Most of an ADD '
             'is waiting. More than that queue up within their deadline.'),
    cfg.IntOpt(
        'max_requests', default=16, min=1,
        help='How many requests other than ADD are worked on at the same '
             'time; they never wait behind an ADD of another pod.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
