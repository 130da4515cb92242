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

"""Exchange the programs of pods' links, within a node.

swap.py FORWARD_OBJECT VIF_ID=IPV4 ...: reads 'forward' or 'judge' a line from
standard input, and answers 'ok' when the links have those programs.
"""

import ipaddress
import os
import struct
import sys

from kuryr_cilium import conf
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import links
from kuryr_cilium.datapath.bpf import loader


def main(forward_object, *vifs):
    conf.CONF([], project='kuryr-cilium')
    options = conf.CONF.datapath
    forward = libbpf.Object(forward_object)
    forward.load()
    judge = loader.load(
        loader.object_path(options.object_file, options.cache_dir,
                           options.clang), options.pin_dir)
    folder = os.path.join(options.pin_dir, 'links')
    sets = {'forward': links.Links(folder, forward.program_fds()),
            'judge': links.Links(folder, judge.programs)}
    maps = forward.map_fds()
    for vif in vifs:
        vif_id, address = vif.split('=')
        devices = sets['judge'].devices(vif_id)
        for one, other in (devices, reversed(devices)):
            libbpf.map_update(maps['forward_if'], struct.pack('=I', one),
                              struct.pack('=I', other))
        libbpf.map_update(maps['forward_local'],
                          ipaddress.ip_address(address).packed,
                          struct.pack('=I', devices.kc))
    try:
        for line in sys.stdin:
            sets[line.strip()].update()
            print('ok', flush=True)
    finally:
        sets['judge'].update()


if __name__ == '__main__':
    main(*sys.argv[1:])
