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

"""The rules of a real kube-proxy.

    python -m benchmarks.kubeproxy MODE ADDRESS SERVICES

runs in the network namespace that gets them: an API server of its own on
loopback, these services with their slices, and kube-proxy until all of them
are in force. Its rules stay. SERVICES is a file (JSON): [[namespace, name,
address, port, [[backend address, port], ...]], ...]. It prints the addresses
of services (JSON) in the order of the rules: iptables looks at one after the
other.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from kuryr_cilium.k8s import resources
from tests import base
from tests.functional.k8s import fixtures

CLUSTER_CIDR = '10.60.0.0/16'
SERVICE_CIDR = '172.30.0.0/16'
#: Of the two kinds of iptables the one that is quicker with many rules.
IPTABLES = 'iptables-legacy'
NODE = 'router'

_SLICES = '/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices'
_CONFIG = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
hostnameOverride: %s
clusterCIDR: %s
clientConnection: {kubeconfig: %s, qps: 1000, burst: 1000}
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
"""


def write(mode, address, services):
    """Have kube-proxy write its rules here.

    :param mode: iptables or nftables.
    :param address: an address of the node.
    :param services: see above.
    :returns: their addresses in the order of the rules.
    """
    with contextlib.ExitStack() as stack:
        kube = fixtures.KubeAPI(SERVICE_CIDR)
        stack.callback(kube.stop)
        kube.start()
        api = stack.enter_context(contextlib.closing(kube.client()))
        _fill(api, address, services)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        process = _start(mode, folder, kube.kubeconfig)
        stack.callback(process.wait)
        stack.callback(process.kill)
        # They all come at once.
        return base.wait_until(
            lambda: _written(mode, {service[2] for service in services}),
            300, lambda: _end_of_log(folder), interval=0.5)


def _fill(api, address, services):
    node = api.create(resources.NODES.path(), {'metadata': {'name': NODE}})
    node['status'] = {'addresses': [{'type': 'InternalIP',
                                     'address': address}]}
    api.put(resources.NODES.path(name=NODE) + '/status', node)
    for namespace in sorted({service[0] for service in services}):
        api.create(resources.NAMESPACES.path(), {
            'metadata': {'name': namespace}})
    for namespace, name, portal, port, backends in services:
        api.create(resources.SERVICES.path(namespace), {
            'metadata': {'name': name},
            'spec': {'clusterIP': portal, 'ports': [{
                'name': 'p', 'port': port, 'targetPort': backends[0][1]}]}})
        api.create(_SLICES % namespace, {
            'metadata': {'name': name, 'labels': {
                'kubernetes.io/service-name': name}},
            'addressType': 'IPv4',
            'ports': [{'name': 'p', 'port': backends[0][1]}],
            'endpoints': [{'addresses': [backend], 'conditions': {
                'ready': True}} for backend, _ in backends]})


def _start(mode, folder, kubeconfig):
    # It calls them by these names.
    for name in ('iptables', 'ip6tables'):
        for end in ('', '-save', '-restore'):
            os.symlink(shutil.which(name + '-legacy' + end),
                       os.path.join(folder, name + end))
    config = os.path.join(folder, 'config.yaml')
    with open(config, 'w') as stream:
        stream.write(_CONFIG % (mode, NODE, CLUSTER_CIDR, kubeconfig))
    with open(os.path.join(folder, 'log'), 'w') as log:
        return subprocess.Popen(
            [fixtures.kube(), 'kube-proxy', '--config=' + config],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={'PATH': folder + ':' + os.environ['PATH']})


def _written(mode, wanted):
    command, pattern = ((
        ('nft', 'list', 'set', 'ip', 'kube-proxy', 'cluster-ips'),
        r'[0-9.]+(?=[, ])') if mode == 'nftables' else (
        (IPTABLES + '-save', '-t', 'nat'),
        r'(?<=-A KUBE-SERVICES -d )[0-9.]+'))
    done = subprocess.run(command, capture_output=True, text=True)
    found = [address for address in re.findall(pattern, done.stdout)
             if address in wanted]
    return found if len(found) == len(wanted) else None


def _end_of_log(folder):
    with open(os.path.join(folder, 'log')) as log:
        return log.read()[-2000:]


if __name__ == '__main__':
    with open(sys.argv[3]) as _stream:
        print(json.dumps(write(*sys.argv[1:3], json.load(_stream))))
