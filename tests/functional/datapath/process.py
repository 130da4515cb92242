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

"""A process with a driver, as an agent is one: to be killed.

Arguments: the node's namespace, pin_dir, cache_dir, and for each pod its
namespace, number and UID. Takes over what is there, or makes it; says
"ready" when the standard view is in force and waits for its end.
"""

import itertools
import sys

from kuryr_cilium.datapath.bpf import driver
from tests.functional.datapath import scene


def main(node, pin_dir, cache_dir, *pods):
    made = driver.BPFDriver(scene.make_conf(pin_dir, cache_dir))
    node = scene.Place(node, ('192.0.2.1', 'fd51::1'))
    pods = [scene.Pod(name, int(number), uid) for name, number, uid
            in zip(*[itertools.chain(pods)] * 3)]
    node.run(made.start, (node.v4, node.v6))
    adopted = [node.run(made.adopt, pod.attachment) for pod in pods]
    for pod, known in zip(pods, adopted):
        if not known:
            node.run(made.attach, pod.attachment)
    made.apply(scene.standard_view(*pods))
    for pod in pods:
        made.activate(pod.attachment.vif_id)
    print('ready', adopted, flush=True)
    sys.stdin.read()


if __name__ == '__main__':
    main(*sys.argv[1:])
