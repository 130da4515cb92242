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

"""Nodes as machines: namespaces, disk, network cards, power."""

import os
import pathlib
import subprocess

from kclab import parts
from kclab import procs
from kclab import settings
from kclab import ui

CGROUPS = pathlib.Path('/sys/fs/cgroup')


def ip(*args, netns=None, batch=None):
    """ip(8), in a named network namespace; batch is a list of commands."""
    argv = ['ip'] + (['-n', netns] if netns else [])
    argv += ['-batch', '-'] if batch else list(args)
    done = subprocess.run(argv, capture_output=True, text=True,
                          input='\n'.join(batch) + '\n' if batch else None)
    if done.returncode:
        raise settings.LabError(f'{" ".join(argv)}: {done.stderr.strip()}')
    return done.stdout


def netns_exists(name):
    return os.path.exists(f'{parts.NETNS}/{name}')


def sysctl(values, netns):
    def put():
        for name, value in values.items():
            path = pathlib.Path('/proc/sys') / name
            path.write_text(str(value))
    procs.in_netns(f'{parts.NETNS}/{netns}', put)


def delete_netns(name):
    """End every process that is still in it, then remove it."""
    if not netns_exists(name):
        return

    def empty():
        left = [int(p) for p in ip('netns', 'pids', name).split()]
        procs.kill(left)
        return not left
    ui.wait_for(empty, 20, f'the processes in {name} to end')
    ip('netns', 'del', name)


def make_control_network():
    """lab-cp with the bridges ul0 (management) and ul1 (tunnels)."""
    if netns_exists(settings.CP):
        return
    ip('netns', 'add', settings.CP)
    sysctl({'net/ipv4/ip_forward': 1, 'net/ipv6/conf/all/forwarding': 1},
           settings.CP)
    ip(netns=settings.CP, batch=[
        'link set lo up',
        # Else they would change with the cards of nodes that boot, and
        # Neutron's router would go on with the former one.
        'link add ul0 address 02:4c:00:00:00:00 type bridge mcast_snooping 0',
        'link add ul1 address 02:4c:00:00:01:00 type bridge mcast_snooping 0',
        f'addr add {settings.CP_IP}/24 dev ul0',
        f'addr add {settings.CP_IP6}/64 dev ul0 nodad',
        f'addr add {settings.TUNNEL_IP}/24 dev ul1',
        f'addr add {settings.TUNNEL_IP6}/64 dev ul1 nodad',
        'link set ul0 up', 'link set ul1 up'])
    # What this host sends reaches Open vSwitch by a packet socket: without
    # a checksum unless it is made here.
    subprocess.run(['nsenter', f'--net={parts.CP_NETNS}', 'ethtool', '-K',
                    'ul1', 'tx', 'off', 'tso', 'off', 'gso', 'off'],
                   check=True, capture_output=True)


def links(netns):
    """Names of the devices in a network namespace."""
    return {line.split(':')[1].split('@')[0].strip()
            for line in ip('-o', 'link', netns=netns).splitlines()}


def _make_node_network(node):
    # The cards of a node that was just switched off take a moment to go.
    ui.wait_for(lambda: not links(settings.CP)
                & {f'v0-{node.name}', f'v1-{node.name}'}, 20,
                f'the cards of {node.name} to go')
    ip('netns', 'add', node.netns)
    for card in (0, 1):
        far = f'v{card}-{node.name}'
        # The same address at each boot, as a card has.
        ip('link', 'add', far, 'type', 'veth', 'peer', 'name', f'eth{card}',
           'address', f'02:4c:00:00:0{card}:0{node.index}', 'netns',
           node.netns, netns=settings.CP)
        ip('link', 'set', far, 'master', f'ul{card}', 'up',
           netns=settings.CP)
    sysctl({'net/ipv4/ip_forward': 1, 'net/ipv6/conf/all/forwarding': 1,
            'net/ipv6/conf/eth1/disable_ipv6': 1}, node.netns)
    ip(netns=node.netns, batch=[
        'link set lo up',
        f'addr add {node.ip}/24 dev eth0',
        f'addr add {node.ip6}/64 dev eth0 nodad',
        'link set eth0 up', 'link set eth1 up',
        f'route add default via {settings.CP_IP}',
        f'route add default via {settings.CP_IP6}'])


def _controllers():
    """Roots of the cgroup hierarchies: one, or one per v1 controller."""
    if (CGROUPS / 'cgroup.controllers').exists():
        return [CGROUPS]
    return [d for d in CGROUPS.iterdir()
            if d.is_dir() and d.name != 'unified']


def _make_cgroup(node):
    """The kubelet wants its root to be there in every hierarchy."""
    for root in _controllers():
        parent = root / settings.CGROUP
        for folder in (parent, parent / node.name):
            folder.mkdir(exist_ok=True)
            if root.name == 'cpuset':
                for name in ('cpuset.cpus', 'cpuset.mems'):
                    (folder / name).write_text(
                        (folder.parent / name).read_text())
        if root == CGROUPS:
            for folder in (root, parent):
                names = (folder / 'cgroup.controllers').read_text().split()
                (folder / 'cgroup.subtree_control').write_text(
                    ' '.join(f'+{n}' for n in names))


def _remove_cgroups(name=None):
    """Remove the empty cgroups of a node, or all that are the lab's.

    runc also makes them in the unified hierarchy beside those of version 1.
    """
    roots = {*_controllers(), CGROUPS / 'unified'}

    def removed():
        left = False
        for root in roots:
            top = root / settings.CGROUP
            if name:
                top = top / name
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    continue
                except OSError:
                    left = True
        return not left
    ui.wait_for(removed, 20, 'cgroups to empty')


def power_on(lab, node):
    """Start the first process of a node, unless it runs.

    :returns: whether it was started by this call.
    """
    record = parts.node_record(lab, node)
    fresh = record.pid is None
    if fresh:
        _boot(lab, node, record)

    def check():
        if record.pid is None:
            raise settings.LabError(
                f'{node.name} has died. The end of its log:\n'
                + procs.tail(lab.log / f'{node.name}.log'))

    def booted():
        return os.path.exists(f'/proc/{record.pid}/root/run/lab-ready')

    ui.wait_for(booted, 30, f'{node.name} to boot', check=check)
    return fresh


def _boot(lab, node, record):
    # What a node that was killed left behind: its devices would live on,
    # and its empty cgroups delay the next kubelet by half a minute.
    delete_netns(node.netns)
    _remove_cgroups(node.name)
    _make_node_network(node)
    _make_cgroup(node)
    disk = lab.node_dir(node)
    for name in ('upper', 'work', 'root', 'containerd', 'kubelet'):
        (disk / name).mkdir(parents=True, exist_ok=True)
    shared = [lab.clone, lab.cache]
    shared += {os.path.dirname(p) for p in lab.spec['kube_bin'].values()}
    argv = [settings.LAB / 'node-init', node.name, node.index, disk,
            lab.state, *shared]
    procs.spawn(record, argv, parts.environment(lab),
                lab.log / f'{node.name}.log', new=procs.MACHINE,
                netns=f'{parts.NETNS}/{node.netns}')


def power_off(lab, node):
    """As pulling the plug: everything in it ends, its cards go."""
    record = parts.node_record(lab, node)
    record.signal(9)
    ui.wait_for(lambda: record.pid is None, 20, f'{node.name} to end')
    record.forget()
    for path in lab.run.glob(f'{node.name}.*.json'):
        path.unlink()
    delete_netns(node.netns)
    _remove_cgroups(node.name)


def root(lab, node):
    """A node's file system as a path of the host's."""
    return pathlib.Path(f'/proc/{parts.node_pid(lab, node)}/root')


def remove_all():
    """Whatever carries a name of the lab's, known or not."""
    for node in settings.ALL_NODES:
        delete_netns(node.netns)
    delete_netns(settings.CP)
    _remove_cgroups()


def is_mounted(path):
    """Whether something is mounted there, a folder on itself included."""
    lines = pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
    return path in (line.split()[4] for line in lines)


def forget_netns_mount():
    """Undo what the first `ip netns add` on a host does."""
    if is_mounted(parts.NETNS) and not os.listdir(parts.NETNS):
        done = subprocess.run(['umount', parts.NETNS], capture_output=True,
                              text=True)
        if done.returncode:
            raise settings.LabError(done.stderr.strip())
