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

"""The API server, asked from here: a program for each request takes longer
than a scenario should."""

import urllib.parse

import requests

from kuryr_cilium.linux import netns
from tests.e2e import lab as e2e_lab

#: kind -> apiVersion and the name in paths.
KINDS = {
    'Namespace': ('v1', 'namespaces'),
    'Node': ('v1', 'nodes'),
    'Pod': ('v1', 'pods'),
    'Service': ('v1', 'services'),
    'EndpointSlice': ('discovery.k8s.io/v1', 'endpointslices'),
    'NetworkPolicy': ('networking.k8s.io/v1', 'networkpolicies'),
    'ClusterNetworkPolicy': ('policy.networking.k8s.io/v1beta1',
                             'clusternetworkpolicies'),
    'CiliumNetworkPolicy': ('cilium.io/v2', 'ciliumnetworkpolicies'),
    'CiliumClusterwideNetworkPolicy': ('cilium.io/v2',
                                       'ciliumclusterwidenetworkpolicies'),
}
_MANAGER = 'kuryr-cilium-conformance'
_APPLY = 'application/apply-patch+yaml'
_MERGE = 'application/merge-patch+json'


class API:
    """Requests as administrator of the lab."""

    def __init__(self, lab: e2e_lab.Lab):
        self._netns = lab.netns()
        self._url = lab.facts['api']
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(lab.state / 'kube' / 'ca.crt')
        token = (lab.state / 'kube' / 'admin.token').read_text()
        self._session.headers['Authorization'] = 'Bearer ' + token.strip()

    def list(self, kind: str) -> list[dict]:
        """The objects of a kind in all namespaces."""
        return [{**item, 'kind': kind}
                for item in self._ask('GET', kind)['items']]

    def apply(self, obj: dict) -> None:
        """Make or change an object: what it does not say any more goes."""
        metadata = obj['metadata']
        self._ask('PATCH', obj['kind'], metadata.get('namespace'),
                  metadata['name'], obj, _APPLY,
                  {'fieldManager': _MANAGER, 'force': 'true'})

    def label(self, kind: str, namespace: str | None, name: str,
              labels: dict[str, str | None]) -> None:
        """Set labels; None takes one away."""
        self._ask('PATCH', kind, namespace, name,
                  {'metadata': {'labels': labels}}, _MERGE)

    def delete(self, kind: str, namespace: str | None, name: str) -> None:
        """Delete an object, if it is there."""
        self._ask('DELETE', kind, namespace, name)

    def _ask(self, method, kind, namespace=None, name=None, body=None,
             content=None, query=None):
        version, plural = KINDS[kind]
        path = [*(('api',) if version == 'v1' else ('apis',)), version]
        if namespace:
            path += ['namespaces', namespace]
        path += [plural, *((name,) if name else ())]
        url = '%s/%s' % (self._url, urllib.parse.quote('/'.join(path)))
        headers = {'Content-Type': content} if content else {}
        answer = netns.run(self._netns, lambda: self._session.request(
            method, url, json=body, params=query, headers=headers,
            timeout=30))
        if method == 'DELETE' and answer.status_code == 404:
            return None
        if not answer.ok:
            raise e2e_lab.LabError('%s %s: %d %s' % (
                method, url, answer.status_code, answer.text[:1000]))
        return answer.json()
