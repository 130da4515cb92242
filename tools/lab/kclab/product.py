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

"""The product in the lab: its programs, configuration and credentials."""

import json
import pathlib
import shutil

from kclab import controlplane
from kclab import machine
from kclab import parts
from kclab import rabbit
from kclab import settings

NAMESPACE = 'kube-system'
CONTROLLER, AGENT = 'kuryr-cilium-controller', 'kuryr-cilium-agent'
CONF = '/etc/kuryr-cilium'
AGENT_HEALTH = ('127.0.0.1', 9801)
CONTROLLER_HEALTH = ('127.0.0.1', 9802)


def cni_source(lab):
    return lab.clone / 'kuryr_cilium' / 'cni' / 'kuryr-cilium-cni.c'


def cni_client(lab):
    return lab.bin / 'kuryr-cilium-cni'


def bpf_object(lab):
    return lab.bin / 'kuryr_cilium.bpf.o'


def apply_manifests(lab):
    """Kinds of policy, service accounts and what they may do, DNS."""
    deploy = lab.clone / 'deploy'
    dns = lab.state / 'dns.yaml'
    settings.write(dns, settings.template(
        'dns.yaml.in', ip=settings.DNS_IP, ip6=settings.DNS_IP6))
    controlplane.apply(lab, deploy / 'base' / 'rbac.yaml',
                       deploy / 'base' / 'admission.yaml', dns)
    controlplane.apply_folder(lab, deploy / 'crds')


def dns_answers(lab):
    """Whether CoreDNS is ready; as many replicas as are wanted, 0 too."""
    return controlplane.available(lab, NAMESPACE, 'coredns')


def _token(lab, account, path):
    """Put a token of a service account into a file, unless it has one."""
    if not path.exists():
        settings.write(path, controlplane.service_account_token(
            lab, NAMESPACE, account), 0o600)


def _controller(lab):
    where = lab.state / 'controller'

    def before():
        facts = json.loads((lab.state / 'neutron.json').read_text())
        (where / 'kuryr-cilium.conf.d').mkdir(parents=True, exist_ok=True)
        _token(lab, CONTROLLER, where / 'token')
        settings.write(where / 'kuryr-cilium.conf', settings.template(
            'controller.conf.in', where=where, api=settings.API,
            ca=lab.kube / 'ca.crt', neutron=settings.NEUTRON,
            transport_url=rabbit.url(lab, 'controller'),
            network=facts['network'], subnets=','.join(facts['subnets']),
            security_group=facts['security_group']), 0o600)

    return parts.Part(
        lab, 'controller', before=before, whole=True, cwd=where,
        command=lambda: [lab.venv / 'bin' / CONTROLLER,
                         f'--config-file={where}/kuryr-cilium.conf',
                         f'--config-dir={where}/kuryr-cilium.conf.d'],
        env={'HOSTNAME': settings.CP, 'TMPDIR': where},
        ready=parts.http_answers(*CONTROLLER_HEALTH, '/healthz'))


def _agent(lab, node):
    def before():
        where = machine.root(lab, node) / CONF.lstrip('/')
        (where / 'kuryr-cilium.conf.d').mkdir(parents=True, exist_ok=True)
        _token(lab, AGENT, where / 'token')
        settings.write(where / 'ca.crt', (lab.kube / 'ca.crt').read_text())
        settings.write(where / 'kuryr-cilium.conf', settings.template(
            'agent.conf.in', transport_url=rabbit.url(lab, node.name),
            name=node.name, ip=node.ip, ip6=node.ip6,
            object=bpf_object(lab), api=settings.API,
            replace_kube_proxy=not lab.kube_proxy), 0o600)

    def after():
        root = machine.root(lab, node)
        plugin = root / 'opt/cni/bin/kuryr-cilium-cni'
        scratch = plugin.with_name('.kuryr-cilium-cni')
        shutil.copy(cni_client(lab), scratch)
        scratch.rename(plugin)
        # The last, for the runtime takes it as "the network is ready".
        settings.write(root / 'etc/cni/net.d/10-kuryr-cilium.conflist',
                       settings.template('kuryr-cilium.conflist.in'))

    return parts.Part(
        lab, f'{node.name}/agent', node=node, before=before, after=after,
        whole=True,
        command=lambda: [lab.venv / 'bin' / AGENT,
                         f'--config-file={CONF}/kuryr-cilium.conf',
                         f'--config-dir={CONF}/kuryr-cilium.conf.d'],
        ready=parts.http_answers(*AGENT_HEALTH, '/healthz', node))


def remove_shared_memory():
    """What oslo.messaging keeps of the controller outside its folders."""
    for path in pathlib.Path('/dev/shm').glob(f'{settings.CP}_*_qmanager'):
        path.unlink(missing_ok=True)


def make_parts(lab):
    return [_controller(lab)]


def make_node_parts(lab, node):
    return [_agent(lab, node)]


def serving(lab):
    """A probe: the controller and all agents call themselves ready."""
    probes = [parts.http_answers(*CONTROLLER_HEALTH, '/readyz')]
    probes += [parts.http_answers(*AGENT_HEALTH, '/readyz', node)
               for node in lab.nodes]
    return all(probe() for probe in probes)
