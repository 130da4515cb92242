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

"""Options of the datapath."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'datapath', title='Datapath',
    help='The eBPF programs that judge the traffic of pods.')

OPTS = [
    cfg.StrOpt(
        'driver', default='bpf',
        help='Name of the policy driver (entry point of '
             'kuryr_cilium.datapath).'),
    cfg.StrOpt(
        'pin_dir', default='/sys/fs/bpf/kuryr-cilium',
        help='Folder in a BPF file system where programs, links and maps '
             'outlive the agent. The file system has to be mounted on the '
             'host ("mount -t bpf bpf /sys/fs/bpf"), not in the container '
             'alone, or a restart of the container loses what is in force.'),
    cfg.StrOpt(
        'object_file', default='',
        sample_default='/usr/lib/kuryr-cilium/kuryr_cilium.bpf.o',
        help='The compiled programs. Left empty: the file beside the '
             'package if it was built with it, else the one in cache_dir, '
             'which is compiled by clang when it is missing.'),
    cfg.StrOpt(
        'cache_dir', default='/var/cache/kuryr-cilium',
        help='Where programs are kept that were compiled on this node.'),
    cfg.StrOpt(
        'clang', default='clang',
        help='The compiler, needed only where the compiled programs do not '
             'come with the package.'),
    cfg.IntOpt(
        'event_rate', default=100, min=1,
        help='How many flow events of one pod each CPU reports in a second '
             'at most, drops and first verdicts apart. Lower it where '
             'nobody reads them. Drops are counted in any case.'),
]


def register_opts(conf):
    """Register the options of the group [datapath]."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    """The options by group, for oslo-config-generator."""
    return {GROUP: OPTS}
