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

"""RabbitMQ with a vhost, a user of the controller, and one per node."""

import base64
import hashlib
import json
import os
import secrets

from kclab import parts
from kclab import settings

VHOST, NEUTRON_VHOST = 'kuryr', 'neutron'
EXCHANGE = 'kuryr-cilium'


def password_hash(password):
    """As RabbitMQ stores it: base64 of a salt and a salted SHA-256."""
    salt = os.urandom(4)
    return base64.b64encode(
        salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def passwords(lab):
    """Password of each user, made at the first call."""
    path = lab.state / 'rabbit' / 'passwords.json'
    if not path.exists():
        users = ['controller', 'neutron']
        users += [n.name for n in settings.ALL_NODES]
        settings.write(path, json.dumps(
            {u: secrets.token_hex(12) for u in users}), 0o600)
    return json.loads(path.read_text())


def url(lab, user, vhost=VHOST):
    """transport_url of a user."""
    return (f'rabbit://{user}:{passwords(lab)[user]}@{settings.CP_IP}:5672/'
            f'{vhost}')


def node_permissions(name):
    """What a node's agent may configure, write and read, as expressions.

    Its own queues and replies and the fanout that all nodes share: nothing
    that belongs to another node.
    """
    mine = (rf'^({EXCHANGE}|kuryr-cilium-agent(\.{name}|_fanout)?'
            rf'|reply_{name}:kuryr-cilium-agent:\d+)$')
    return {'configure': mine, 'write': mine, 'read': mine}


def node_topics(name):
    """What it may send to, and receive, through the shared exchange."""
    return {'exchange': EXCHANGE,
            'write': r'^kuryr-cilium-(controller|leader)$',
            'read': rf'^kuryr-cilium-agent(\.{name})?$'}


def definitions(lab):
    secret = passwords(lab)
    everything = {'configure': '.*', 'write': '.*', 'read': '.*'}
    grants = [{'user': 'controller', 'vhost': VHOST, **everything},
              {'user': 'neutron', 'vhost': NEUTRON_VHOST, **everything}]
    grants += [{'user': n.name, 'vhost': VHOST, **node_permissions(n.name)}
               for n in settings.ALL_NODES]
    return {'vhosts': [{'name': VHOST}, {'name': NEUTRON_VHOST}],
            'users': [{'name': user, 'password_hash': password_hash(word),
                       'hashing_algorithm': 'rabbit_password_hashing_sha256',
                       'tags': ['administrator'] if user == 'controller'
                       else []} for user, word in secret.items()],
            'permissions': grants,
            'topic_permissions': [
                {'user': n.name, 'vhost': VHOST, **node_topics(n.name)}
                for n in settings.ALL_NODES]}


def make_parts(lab):
    where = lab.state / 'rabbit'
    # The loopback only: epmd has no authentication.
    local = {'ERL_EPMD_ADDRESS': '127.0.0.1', 'HOME': where / 'home'}

    def before():
        for name in ('mnesia', 'log', 'home'):
            (where / name).mkdir(parents=True, exist_ok=True)
        settings.write(where / 'enabled_plugins', '[].\n')
        settings.write(where / 'definitions.json',
                       json.dumps(definitions(lab)), 0o600)
        settings.write(where / 'rabbitmq.conf', settings.template(
            'rabbitmq.conf.in', where=where))

    return [
        # By itself: started by RabbitMQ it would outlive it unrecorded.
        parts.Part(lab, 'epmd', lambda: ['epmd', '-address', '127.0.0.1'],
                   ready=parts.tcp_answers('127.0.0.1', 4369)),
        parts.Part(
            lab, 'rabbitmq',
            lambda: ['/usr/lib/rabbitmq/bin/rabbitmq-server'],
            before=before, whole=True,
            # The start of an AMQP 0-9-1 connection and of its answer.
            ready=parts.tcp_answers('127.0.0.1', 5672,
                                    say=b'AMQP\x00\x00\x09\x01', hear=8),
            env=local | {
                'RABBITMQ_NODENAME': 'lab@localhost',
                'RABBITMQ_MNESIA_BASE': where / 'mnesia',
                'RABBITMQ_LOG_BASE': where / 'log',
                'RABBITMQ_CONFIG_FILE': where / 'rabbitmq.conf',
                'RABBITMQ_ENABLED_PLUGINS_FILE': where / 'enabled_plugins',
                'RABBITMQ_DIST_PORT': '25672',
                'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': '+S 1:1 +sbwt none'})]
