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

"""What runs, and where to find it."""

import os
import pathlib

from kclab import controlplane
from kclab import parts
from kclab import procs
from kclab import settings


def collect(cluster, memory=False):
    """All that a test or a person must know of the lab, as plain data."""
    lab = cluster.lab
    spec = lab.spec
    facts = {'up': spec is not None, 'healthy': False,
             'state': str(lab.state), 'cache': str(lab.cache)}
    if spec is None:
        return facts
    try:
        ready = controlplane.ready_nodes(lab)
    except (OSError, settings.LabError):
        ready = set()
    facts |= {
        'backend': spec['backend'], 'bare': spec['bare'],
        'kube_proxy': lab.kube_proxy,
        'kubeconfig': str(lab.kubeconfig), 'api': settings.API,
        'neutron': settings.NEUTRON, 'netns': settings.CP,
        'nodes': {n.name: _node(lab, n, n.name in ready) for n in lab.nodes},
        'parts': {p.name: _part(p) for p in cluster.parts.values()}}
    facts['healthy'] = (
        all(n['ready'] for n in facts['nodes'].values())
        and all(p['state'] == 'running' for p in facts['parts'].values()))
    if memory:
        facts['memory_mb'] = _memory(lab)
    return facts


def _part(part):
    data, pid = part.record.read(), part.pid
    state = 'running' if pid else 'dead' if data else 'stopped'
    return {'state': state, 'pid': pid, 'log': str(part.log),
            'since': data['since'] if pid else None}


def _node(lab, node, ready):
    pid = parts.node_record(lab, node).pid
    return {'pid': pid, 'ready': bool(pid) and ready, 'netns': node.netns,
            'address': node.ip, 'address6': node.ip6,
            'tunnel_address': node.tunnel_ip,
            'root': f'/proc/{pid}/root' if pid else None}


def _identity(path):
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _memory(lab):
    """Proportional set size, in MB: of the control plane and each node."""
    places = {_identity(parts.CP_NETNS): settings.CP}
    for node in lab.nodes:
        pid = parts.node_record(lab, node).pid
        if pid:
            places[_identity(f'/proc/{pid}/ns/pid')] = node.name
    totals = {}
    for process in pathlib.Path('/proc').iterdir():
        if not process.name.isdigit() or procs.stat(process.name) is None:
            continue
        place = (places.get(_identity(process / 'ns' / 'pid'))
                 or places.get(_identity(process / 'ns' / 'net')))
        if place is None:
            continue
        try:
            text = (process / 'smaps_rollup').read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith('Pss:'):
                totals[place] = totals.get(place, 0) + int(line.split()[1])
    found = {place: kb // 1024 for place, kb in sorted(totals.items())}
    found['all'] = sum(totals.values()) // 1024
    return found


def show(facts):
    if not facts['up']:
        print('the lab is not up')
        return
    print(f'{"node":<24}{"state":<12}{"address":<16}pid')
    for name, node in facts['nodes'].items():
        state = ('Ready' if node['ready'] else
                 'not Ready' if node['pid'] else 'off')
        print(f'{name:<24}{state:<12}{node["address"]:<16}'
              f'{node["pid"] or "-"}')
    print(f'\n{"part":<24}{"state":<12}pid')
    for name, part in facts['parts'].items():
        print(f'{name:<24}{part["state"]:<12}{part["pid"] or "-"}')
    for place, size in facts.get('memory_mb', {}).items():
        print(f'{place:<24}{size} MB')
    print(f'\nKUBECONFIG {facts["kubeconfig"]}, logs in '
          f'{facts["state"]}/log')
