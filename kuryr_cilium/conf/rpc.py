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

"""Options of the messages between controller and agents.

Where RabbitMQ is, and how it is spoken to, are options of oslo.messaging:
transport_url and the group oslo_messaging_rabbit.
"""

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'rpc', title='RPC',
    help='Messages between kuryr-cilium-controller and the agents.')

OPTS = [
    cfg.FloatOpt(
        'call_timeout', default=15.0, min=1.0,
        help='Seconds that an agent waits for the answer to a call. Raise it '
             'if agents log timeouts of "sync" while controllers and '
             'RabbitMQ are well: a new view of very many objects takes '
             'longer.'),
    cfg.IntOpt(
        'page_objects', default=500, min=1,
        help='How many objects a controller puts into one answer to a sync '
             'at most. The agent asks for the rest in further calls.'),
    cfg.IntOpt(
        'page_bytes', default=1024 * 1024, min=1024,
        help='How many bytes of objects a controller puts into one answer '
             'to a sync. One larger object still goes out, alone. Lower it '
             'if RabbitMQ complains of the size of messages '
             '(max_message_size).'),
    cfg.FloatOpt(
        'hint_delay', default=0.03, min=0.0, max=1.0,
        help='Seconds between two hints of a controller to the same agent at '
             'what changed: the first goes out at once, and what changes '
             'within them is one message. Raise it if hints load RabbitMQ in '
             'a large cluster with many changes; where many follow each '
             'other, policy takes effect later by as much.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
