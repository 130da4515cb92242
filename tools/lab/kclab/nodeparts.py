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

"""What runs in a node below the product: OVS, OVN, containerd, kubelet."""

from kclab import machine
from kclab import networks
from kclab import parts
from kclab import rabbit
from kclab import settings
from kclab import ui

DATABASE = '/var/lib/openvswitch/conf.db'
SOCKET = '/run/openvswitch/db.sock'


def _vsctl(lab, node, *args):
    return parts.run(lab, ['ovs-vsctl', '--timeout=30', *args], node)


def _ovsdb(lab, node):
    def before():
        if not (machine.root(lab, node) / DATABASE.lstrip('/')).exists():
            parts.run(lab, ['ovsdb-tool', 'create', DATABASE,
                            '/usr/share/openvswitch/vswitch.ovsschema'], node)

    def after():
        ids = {'system-id': node.name, 'hostname': node.name,
               'ovn-remote': f'tcp:{settings.CP_IP}:6642',
               'ovn-encap-type': 'geneve', 'ovn-encap-ip': node.tunnel_ip,
               'ovn-bridge-datapath-type': 'netdev',
               'ovn-bridge-mappings': 'physnet1:br-phy'}
        if node.gateway:
            ids['ovn-cms-options'] = 'enable-chassis-as-gw'
        # NOTE: userspace Open vSwitch of before 3.3 may keep a flow whose
        # actions are of before a change, for as long as packets use it
        # (openvswitch/ovs 21410ff80, cf11766cb; antrea-io/antrea#897). What
        # nobody uses for half a second, the least there is, goes.
        _vsctl(lab, node, '--no-wait', 'init', '--', 'set', 'Open_vSwitch',
               '.', 'other_config:max-idle=500',
               *(f'external_ids:{k}="{v}"' for k, v in ids.items()))

    return parts.Part(
        lab, f'{node.name}/ovsdb', node=node, before=before, after=after,
        command=lambda: ['ovsdb-server', DATABASE,
                         f'--remote=punix:{SOCKET}', '--pidfile',
                         '--no-chdir'],
        ready=lambda: parts.unix_answers(
            f'{machine.root(lab, node)}{SOCKET}')())


def _vswitchd(lab, node):
    def after():
        # The tunnels' address is on a bridge of the same datapath: tunnels
        # of userspace Open vSwitch do not use the kernel's routes.
        _vsctl(lab, node, '--may-exist', 'add-br', 'br-phy', '--', 'set',
               'Bridge', 'br-phy', 'datapath_type=netdev', '--',
               '--may-exist', 'add-port', 'br-phy', 'eth1')
        ui.wait_for(lambda: 'br-phy' in machine.links(node.netns), 30,
                    f'br-phy of {node.name}')
        machine.ip(netns=node.netns, batch=[
            f'addr replace {node.tunnel_ip}/24 dev br-phy',
            'link set br-phy up',
            f'addr replace {node.tunnel_ip6}/64 dev br-phy nodad'])

    return parts.Part(
        lab, f'{node.name}/vswitchd', node=node, after=after,
        command=lambda: ['ovs-vswitchd', f'unix:{SOCKET}', '--pidfile',
                         '--no-chdir'],
        ready=lambda: parts.run(lab, ['ovs-appctl', 'version'], node))


def _neutron_agents(lab, node):
    """ML2/OVS: what wires ports, and on one node what routes."""
    def before():
        root = machine.root(lab, node)
        settings.write(
            root / 'etc/neutron/neutron.conf', settings.template(
                'neutron-agent.conf.in', name=node.name,
                tunnel_ip=node.tunnel_ip, transport=rabbit.url(
                    lab, 'neutron', rabbit.NEUTRON_VHOST)), 0o600)
        (root / 'var/lib/neutron/lock').mkdir(parents=True, exist_ok=True)

    def agent(name, program, agent_type):
        def alive():
            return any(a['alive'] and a['host'] == node.name
                       and a['agent_type'] == agent_type for a in
                       networks.call('GET', 'agents')['agents'])

        return parts.Part(
            lab, f'{node.name}/{name}', node=node, before=before,
            command=lambda: [lab.venv_neutron / 'bin' / program,
                             '--config-file=/etc/neutron/neutron.conf'],
            env={'PATH': f'{lab.venv_neutron}/bin:{settings.PATH}',
                 'PYTHONWARNINGS': 'ignore'}, ready=alive, whole=True)

    found = [agent('ovs-agent', 'neutron-openvswitch-agent',
                   'Open vSwitch agent')]
    if node.gateway:
        found.append(agent('l3-agent', 'neutron-l3-agent',
                           'L3 agent'))
    return found


def _ovn_controller(lab, node):
    return parts.Part(
        lab, f'{node.name}/ovn-controller', node=node,
        command=lambda: ['ovn-controller', f'unix:{SOCKET}', '--pidfile',
                         '--no-chdir'],
        ready=lambda: parts.run(
            lab, ['ovn-appctl', '-t', 'ovn-controller',
                  'connection-status'], node).strip() == 'connected')


def _containerd(lab, node):
    def before():
        settings.write(
            machine.root(lab, node) / 'etc/containerd/config.toml',
            settings.template('containerd.toml.in'))

    def after():
        known = set(parts.run(lab, ['ctr', '-n', 'k8s.io', 'images', 'ls',
                                    '-q'], node).split())
        for image in sorted(lab.images.glob('*.tar')):
            if f'localhost/{image.stem}:1' not in known:
                load(lab, node, image)

    return parts.Part(
        lab, f'{node.name}/containerd', node=node, before=before,
        after=after,
        command=lambda: ['containerd', '-c', '/etc/containerd/config.toml'],
        ready=lambda: parts.unix_answers(
            f'{machine.root(lab, node)}/run/containerd/containerd.sock')())


def load(lab, node, image):
    """Import a docker archive; it is read here, the node need not see it."""
    with open(image, 'rb') as archive:
        parts.feed(lab, ['ctr', '-n', 'k8s.io', 'images', 'import', '-'],
                   archive, node)


def _kubeconfig(lab, root, user, program):
    """The kubeconfig of a program in a node, /etc/kubernetes/PROGRAM.conf."""
    config = (lab.kube / f'{user}.conf').read_text()
    ca = '/etc/kubernetes/ca.crt'
    settings.write(root / f'etc/kubernetes/{program}.conf', config.replace(
        str(lab.kube / 'ca.crt'), ca), 0o600)
    settings.write(root / ca.lstrip('/'), (lab.kube / 'ca.crt').read_text())


def _kubelet(lab, node):
    def before():
        root = machine.root(lab, node)
        settings.write(
            root / 'var/lib/kubelet/config.yaml', settings.template(
                'kubelet.yaml.in', cgroup=settings.CGROUP, name=node.name,
                dns=settings.DNS_IP))
        _kubeconfig(lab, root, node.name, 'kubelet')

    return parts.Part(
        lab, f'{node.name}/kubelet', node=node, before=before,
        command=lambda: [
            lab.tool('kubelet'), '--config=/var/lib/kubelet/config.yaml',
            '--kubeconfig=/etc/kubernetes/kubelet.conf',
            f'--node-ip={node.ip},{node.ip6}',
            f'--hostname-override={node.name}'],
        ready=parts.http_answers('127.0.0.1', 10248, '/healthz', node))


def _kube_proxy(lab, node):
    config = '/var/lib/kube-proxy/config.yaml'

    def before():
        root = machine.root(lab, node)
        settings.write(root / config.lstrip('/'), settings.template(
            'kube-proxy.yaml.in', name=node.name))
        _kubeconfig(lab, root, 'kube-proxy', 'kube-proxy')

    return parts.Part(
        lab, f'{node.name}/kube-proxy', node=node, before=before,
        command=lambda: [lab.tool('kube-proxy'), f'--config={config}'],
        ready=parts.http_answers('127.0.0.1', 10256, '/healthz', node))


def make_parts(lab, node):
    wiring = ([_ovn_controller(lab, node)] if lab.spec['backend'] == 'ovn'
              else _neutron_agents(lab, node))
    return [_ovsdb(lab, node), _vswitchd(lab, node), *wiring,
            _containerd(lab, node), _kubelet(lab, node),
            *([_kube_proxy(lab, node)] if lab.kube_proxy else [])]


def make_bare_network(lab, node):
    """A plain CNI configuration in place of the product's."""
    settings.write(
        machine.root(lab, node) / 'etc/cni/net.d/10-bare.conflist',
        settings.template('bare.conflist.in', cidr=node.bare_cidr,
                          cidr6=node.bare_cidr6))
    parts.run(lab, ['cp', '-u', '/usr/lib/cni/ptp', '/usr/lib/cni/host-local',
                    '/opt/cni/bin/'], node)


def make_bare_routes(nodes):
    """Every node's pods can be reached from everywhere."""
    for node in nodes:
        routes = [f'route replace {node.bare_cidr} via {node.ip}',
                  f'route replace {node.bare_cidr6} via {node.ip6}']
        for netns in [settings.CP] + [n.netns for n in nodes if n != node]:
            machine.ip(netns=netns, batch=routes)
    ui.say('routes between the pods of all nodes')
