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

"""How long a pod's network takes: CNI ADD, and create to Ready.

One pod at a time, on the nodes in turn: what a user waits for, not what the
machine can do at once.
"""

import re

from benchmarks import lab

PODS = 30
WARM = 2


def run():
    """Figures and context of the benchmark."""
    api = lab.API()
    nodes = [node['metadata']['name']
             for node in api.request('GET', '/api/v1/nodes')['items']]
    adds, readies = [], []
    with lab.namespace(api):
        for number in range(WARM + PODS):
            node = nodes[number % len(nodes)]
            name = 'cni-%d' % number
            before = _added(node)
            _, ready = lab.start(api, lab.pod(name, node))
            after = _added(node)
            lab.stop(api, name)
            if after[0] != before[0] + 1:
                raise RuntimeError(
                    'node %s answered %d ADDs for one pod: is something else '
                    'at work in the lab?' % (node, after[0] - before[0]))
            if number >= WARM:
                adds.append((after[1] - before[1]) * 1000)
                readies.append(ready * 1000)
                lab.say('%-8s on %s: ADD %4.0f ms, Ready %4.0f ms', name,
                        node, adds[-1], readies[-1])
    return ({
        'cni_add_p50_ms': lab.percentile(adds, 0.5),
        'cni_add_p99_ms': lab.percentile(adds, 0.99),
        'pod_ready_p50_ms': lab.percentile(readies, 0.5),
        'pod_ready_p99_ms': lab.percentile(readies, 0.99),
    }, {'pods': PODS, 'nodes': len(nodes)})


def _added(node):
    """ADDs that a node's agent has answered, and the seconds in all."""
    text = lab.on_node(node, 'curl', '-s', '--noproxy', '*',
                       'http://127.0.0.1:9801/metrics')
    found = {}
    for part in ('count', 'sum'):
        match = re.search(
            r'^kuryr_cilium_cni_request_seconds_%s\{[^}]*command="ADD"[^}]*\}'
            r' (\S+)$' % part, text, re.MULTILINE)
        found[part] = float(match[1]) if match else 0.0
    return int(found['count']), found['sum']
