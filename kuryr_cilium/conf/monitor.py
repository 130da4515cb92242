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

"""Options of flow events."""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'monitor', title='Flow events',
    help='What becomes of first verdicts and drops.')

OPTS = [
    cfg.IntOpt(
        'ring_size', default=4096, min=16,
        help='How many events are kept for "kuryr-cilium monitor". About '
             '1 KB each.'),
    cfg.BoolOpt(
        'log_drops', default=True,
        help='Write drops to the log at level INFO, with the pods\' names. '
             'First verdicts that allow are written at DEBUG.'),
    cfg.FloatOpt(
        'log_rate', default=10.0, min=0.1,
        help='How many events a second go into the log; what is left out '
             'is counted in it. Metrics and the ring have all of them.'),
    cfg.IntOpt(
        'log_burst', default=50, min=1,
        help='How many events may go into the log at once.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
