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

"""The agent's process with a datapath that only keeps views.

python -m tests.functional.agent.agent_process --config-file FILE
"""

from kuryr_cilium.agent import service
from kuryr_cilium.binding import ovs
from kuryr_cilium.cmd import agent
from tests.unit.agent import samples


class Datapath(samples.Datapath):

    def adopt(self, attachment):
        return True

    def detach(self, vif_id):
        pass

    def serve(self, found, node, nodes):
        print('%s serves %s' % (node.name, sorted(found)), flush=True)
        return {}


def load_driver(kind, name, conf):
    return ovs.OVSDriver(conf) if kind == 'binding' else Datapath()


if __name__ == '__main__':
    service.load_driver = load_driver
    agent.main()
