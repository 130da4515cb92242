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

"""Where things are and what they are called: folders, addresses, nodes."""

import dataclasses
import json
import os
import pathlib
import string

CLONE = pathlib.Path(__file__).resolve().parents[3]
LAB = CLONE / 'tools' / 'lab'
TEMPLATES = LAB / 'templates'

KUBERNETES = 'v1.37.2'
CP = 'lab-cp'
CP_IP, CP_IP6 = '192.168.50.1', 'fd50::1'
TUNNEL_IP, TUNNEL_IP6 = '192.168.60.1', 'fd60::1'
POD_CIDR, POD_CIDR6, POD_GATEWAY6 = '10.99.0.0/16', 'fd99::/64', 'fd99::1'
SERVICE_CIDR, SERVICE_CIDR6 = '10.96.0.0/16', 'fd00:96::/108'
SERVICE_IP = '10.96.0.1'
DNS_IP, DNS_IP6 = '10.96.0.10', 'fd00:96::a'
API = f'https://{CP_IP}:6443'
NEUTRON = f'http://{CP_IP}:9696'
CGROUP = 'kuryr-cilium-lab'
MAX_NODES = 9
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'


class LabError(Exception):
    """What went wrong, in words for the person at the terminal."""


@dataclasses.dataclass(frozen=True)
class Node:
    """One node: names and addresses follow from its number, from 1."""

    index: int

    @property
    def name(self):
        return f'node-{string.ascii_lowercase[self.index - 1]}'

    @property
    def netns(self):
        return f'lab-{self.name}'

    @property
    def ip(self):
        return f'192.168.50.{10 + self.index}'

    @property
    def ip6(self):
        return f'fd50::{10 + self.index}'

    @property
    def tunnel_ip(self):
        return f'192.168.60.{10 + self.index}'

    @property
    def tunnel_ip6(self):
        return f'fd60::{10 + self.index}'

    @property
    def bare_cidr(self):
        return f'10.98.{self.index}.0/24'

    @property
    def bare_cidr6(self):
        return f'fd98:0:0:{self.index}::/64'

    @property
    def gateway(self):
        """Whether Neutron's router has its gateway on this node."""
        return self.index == 1


ALL_NODES = [Node(i) for i in range(1, MAX_NODES + 1)]


class Settings:
    """The folders of one lab, and what it was brought up as."""

    def __init__(self, state=None):
        home = os.environ.get('HOME') or '/root'
        self.state = pathlib.Path(
            state or os.environ.get('KURYR_CILIUM_LAB_STATE')
            or '/var/lib/kuryr-cilium-lab').absolute()
        self.cache = pathlib.Path(
            os.environ.get('KURYR_CILIUM_CACHE')
            or f'{home}/.cache/kuryr-cilium').absolute()
        self.clone = CLONE
        self.bin = self.cache / 'bin'
        self.images = self.cache / 'images'
        self.venv = self.cache / 'venv'
        self.venv_neutron = self.cache / 'venv-neutron'
        self.mysql_template = self.cache / 'mysql-template'
        self.log = self.state / 'log'
        self.run = self.state / 'run'
        self.kube = self.state / 'kube'
        self.kubeconfig = self.kube / 'admin.conf'
        self.spec_file = self.state / 'lab.json'

    @property
    def spec(self):
        """What `up` was asked for, or None when no lab is up."""
        try:
            return json.loads(self.spec_file.read_text())
        except FileNotFoundError:
            return None

    @property
    def kube_proxy(self):
        """Whether services are kube-proxy's, but for what pods send."""
        return (self.spec or {}).get('kube_proxy', False)

    def save_spec(self, spec):
        write(self.spec_file, json.dumps(spec, indent=1) + '\n')

    @property
    def nodes(self):
        return ALL_NODES[:(self.spec or {}).get('nodes', 0)]

    def node_dir(self, node):
        return self.state / 'nodes' / node.name

    def tool(self, name):
        """Path of a Kubernetes program."""
        found = (self.spec or {}).get('kube_bin', {}).get(name)
        return found or str(self.bin / name)


def write(path, text, mode=0o644):
    """Write a file whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'.{path.name}.{os.getpid()}')
    with open(scratch, 'w') as out:
        os.fchmod(out.fileno(), mode)
        out.write(text)
    scratch.rename(path)


def template(name, /, **values):
    """Text of a template with its @NAME@ marks filled in."""
    text = (TEMPLATES / name).read_text()
    for key, value in values.items():
        text = text.replace(f'@{key.upper()}@', str(value))
    return text
