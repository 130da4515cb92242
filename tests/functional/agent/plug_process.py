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

python -m tests.functional.agent.plug_process DATAPATH FOLDER OVSDB add|del VIF
NETNS CONTAINER
"""

import json
import os
import sys
import time

from oslo_config import cfg

from kuryr_cilium.agent import plug
from kuryr_cilium.agent import store
from kuryr_cilium.binding import ovs
from kuryr_cilium.conf import binding as binding_conf
from kuryr_cilium.conf import datapath as datapath_conf
from kuryr_cilium.conf import services as services_conf
from kuryr_cilium.datapath.bpf import driver as bpf_driver
from kuryr_cilium.linux import netlink
from kuryr_cilium.policy import model
from kuryr_cilium import vif as kc_vif
from tests import base
from tests.functional.agent import fakes

UID = '0b5ad0a4-0000-4000-8000-000000000001'
#: Where the programs are compiled once for all tests.
CACHE = os.path.join('/var/tmp', 'kuryr-cilium-tests')
NODE_IPS = ('192.0.2.10', 'fd01::10')


def plugger(kind, folder, ovsdb):
    """A Plugger as an agent has it, with what it is made of.

    :param kind: 'fake', or 'bpf' for the real datapath.
    """
    conf = cfg.ConfigOpts()
    for module in (binding_conf, datapath_conf, services_conf):
        module.register_opts(conf)
    conf.set_override('ovsdb_connection', ovsdb, 'binding')
    conf.set_override('ovsdb_timeout', int(base.scaled(10)), 'binding')
    if kind == 'fake':
        datapath = fakes.Datapath(folder + '/datapath.json')
    else:
        conf.set_override('pin_dir', pin_dir(folder), 'datapath')
        conf.set_override('cache_dir', CACHE, 'datapath')
        datapath = bpf_driver.BPFDriver(conf)
        datapath.start(netlink.addresses())
    return plug.Plugger(ovs.OVSDriver(conf), datapath,
                        store.Store(folder + '/endpoints'), fakes.Views(),
                        NODE_IPS)


def pin_dir(folder):
    """Where a test's programs are pinned."""
    return folder + '/bpf/pins'


def view(vif):
    """A view that lets the VIF's endpoint receive and send all."""
    endpoint = model.Endpoint(
        uid=UID, namespace='default', name='web', host='node', vif_id=vif.id,
        mac=vif.address, network_id=vif.network.id,
        addresses=kc_vif.addresses(vif), ingress=model.ALLOW_ALL,
        egress=model.ALLOW_ALL)
    return model.View(epoch=1, synced=True, endpoints={UID: endpoint},
                      rulesets={}, selectors={})


def request(vif, netns, container='c1', uid=UID):
    return plug.Request(uid=uid, namespace='default', name='web',
                        container_id=container, ifname='eth0', netns=netns,
                        vif=vif)


def main(kind, folder, ovsdb, command, vif, netns, container):
    made = plugger(kind, folder, ovsdb)
    vif = kc_vif.loads(json.loads(vif)).default_vif
    if kind == 'bpf':
        made._datapath.apply(view(vif))
    if command == 'add':
        made.add(request(vif, netns, container),
                 time.monotonic() + base.scaled(30))
    else:
        made.delete(container, 'eth0')


if __name__ == '__main__':
    main(*sys.argv[1:])
