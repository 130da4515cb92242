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

"""The definitions of deploy/crds are what a real API server takes."""

import pathlib

import yaml

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import resources
from tests import base
from tests.functional.k8s import fixtures

CRDS = pathlib.Path(__file__).parents[3] / 'deploy' / 'crds'
_DEFINITIONS = resources.Resource(
    'customresourcedefinitions', 'CustomResourceDefinition',
    'apiextensions.k8s.io', namespaced=False)


class TestCRDs(base.TestCase):

    def setUp(self):
        super().setUp()
        # Of its own: other tests count on these kinds being absent.
        self.kube = fixtures.KubeAPI()
        self.addCleanup(self.kube.stop)
        self.kube.start()
        self.api = self.kube.client()
        self.addCleanup(self.api.close)

    def established(self, name):
        conditions = self.api.get(_DEFINITIONS.path(name=name)).get(
            'status', {}).get('conditions', ())
        # Of a group of Kubernetes' own there is one more, sooner or later.
        return {'Established', 'NamesAccepted'} <= {
            item['type'] for item in conditions if item['status'] == 'True'}

    def served(self, path):
        try:
            return self.api.get(path)
        except (exceptions.KubernetesNotFound, exceptions.KubernetesBusy):
            return None

    def test_every_kind_keeps_what_stands_in_it(self):
        names = yaml.safe_load(
            (CRDS / 'kustomization.yaml').read_text())['resources']
        self.assertEqual(sorted(path.name for path in CRDS.glob('c*.yaml')),
                         sorted(names))
        found = [yaml.safe_load((CRDS / name).read_text()) for name in names]
        for definition in found:
            self.api.create(_DEFINITIONS.path(), definition)
        for definition in found:
            name = definition['metadata']['name']
            self.assertEventually(lambda: self.established(name), 30)
            # Or it violates some rule of structural schemas.
            self.assertNotIn('NonStructuralSchema', str(self.api.get(
                _DEFINITIONS.path(name=name))))
        for definition in found:
            spec = definition['spec']
            for version in spec['versions']:
                self._keeps(resources.Resource(
                    spec['names']['plural'], spec['names']['kind'],
                    spec['group'], version['name'],
                    spec['scope'] == 'Namespaced'))

    def _keeps(self, resource):
        namespace = 'default' if resource.namespaced else None
        self.assertEventually(
            lambda: self.served(resource.path(namespace)), 30)
        body = {'apiVersion': resource.api_version, 'kind': resource.kind,
                'metadata': {'name': 'test-' + resource.version},
                'spec': {'later': [{'x': 1, 'port': '80'}], 'ingress': []}}
        path = resource.path(namespace, body['metadata']['name'])
        self.api.create(resource.path(namespace), body)
        self.assertEqual(body['spec'], self.api.get(path)['spec'])
        status = {'conditions': [{'type': 'Valid', 'status': 'False'}]}
        self.api.merge_patch(path + '/status', {'status': status,
                                                'spec': None})
        answer = self.api.get(path)
        self.assertEqual((body['spec'], status),
                         (answer['spec'], answer['status']))
        body['metadata']['name'] = 'text'
        self.assertRaises(exceptions.KubernetesInvalid, self.api.create,
                          resource.path(namespace), {**body, 'spec': 'x'})
