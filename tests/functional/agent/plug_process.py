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

"""A process that plugs or unplugs one pod and may be made to die at it.

python -m tests.functional.agent.plug_process FOLDER OVSDB add|del VIF NETNS
CONTAINER
"""

import json
import sys
import time

from oslo_config import cfg

from kuryr_cilium.agent import plug
from kuryr_cilium.agent import store
from kuryr_cilium.binding import ovs
from kuryr_cilium.conf import binding as binding_conf
from kuryr_cilium import vif as kc_vif
from tests.functional.agent import fakes

UID = '0b5ad0a4-0000-4000-8000-000000000001'
NODE_IPS = ('192.0.2.10', 'fd01::10')


def plugger(folder, ovsdb):
    """A Plugger as an agent has it, with what it is made of."""
    conf = cfg.ConfigOpts()
    binding_conf.register_opts(conf)
    conf.set_override('ovsdb_connection', ovsdb, 'binding')
    return plug.Plugger(ovs.OVSDriver(conf),
                        fakes.Datapath(folder + '/datapath.json'),
                        store.Store(folder + '/endpoints'), fakes.Views(),
                        NODE_IPS)


def request(vif, netns, container='c1', uid=UID):
    return plug.Request(uid=uid, namespace='default', name='web',
                        container_id=container, ifname='eth0', netns=netns,
                        vif=vif)


def main(folder, ovsdb, command, vif, netns, container):
    made = plugger(folder, ovsdb)
    if command == 'add':
        made.add(request(kc_vif.loads(json.loads(vif)).default_vif, netns,
                         container), time.monotonic() + 30)
    else:
        made.delete(container, 'eth0')


if __name__ == '__main__':
    main(*sys.argv[1:])
