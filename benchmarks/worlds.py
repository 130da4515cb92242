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

"""Big clusters as API objects, for benchmarks: the same ones each time.

Namespaces are of teams; their pods are of applications. Policies are what is
met most: a default deny, who may ask an application, an application's own way
to a database, to DNS, and to the world outside, and what every pod may ask.
"""

import itertools
import json
import random
import uuid

from kuryr_cilium import vif

PODS, NAMESPACES, POLICIES, NODES = 10_000, 200, 1000, 100
TEAMS, APPS = 20, 10
NETWORK = str(uuid.UUID(int=1))


class Cluster:
    """Objects of a cluster.

    :ivar policies: pairs (kind, object).
    """

    def __init__(self, pods=PODS, namespaces=NAMESPACES, policies=POLICIES,
                 nodes=NODES, seed=1):
        self._random = random.Random(seed)
        self._nodes = nodes
        self.namespaces = [namespace(n) for n in range(namespaces)]
        self.nodes = [node(n) for n in range(nodes)]
        self.pods = [self.pod(n, n % namespaces) for n in range(pods)]
        kinds = itertools.cycle((_deny, _from_apps, _from_team, _to_database,
                                 _to_outside, _from_all))
        self.policies = [
            ('NetworkPolicy', policy(n, n % namespaces, next(kinds)(
                self._random))) for n in range(policies)]

    def pod(self, number, namespace_number):
        """A pod of some application on some node."""
        return pod(number, namespace_number,
                   'app-%d' % self._random.randrange(APPS),
                   'node-%d' % self._random.randrange(self._nodes))

    def fill(self, world):
        """Set everything in a world."""
        for obj in self.namespaces:
            world.set_namespace(obj)
        for obj in self.nodes:
            world.set_node(obj)
        for kind, obj in self.policies:
            world.set_policy(kind, obj)
        for obj in self.pods:
            world.set_pod(obj)


def namespace(number):
    name = 'ns-%d' % number
    return {'metadata': {'name': name, 'labels': {
        'kubernetes.io/metadata.name': name,
        'team': 'team-%d' % (number % TEAMS)}}}


def node(number):
    return {'metadata': {'name': 'node-%d' % number, 'labels': {
        'zone': 'zone-%d' % (number % 3)}}, 'status': {'addresses': [
            {'type': 'InternalIP', 'address': '192.168.%d.%d' % divmod(
                number, 250)}]}}


def pod(number, namespace_number, app, host):
    return {
        'metadata': {
            'uid': str(uuid.UUID(int=number + (1 << 64))),
            'name': 'pod-%d' % number,
            'namespace': 'ns-%d' % namespace_number,
            'labels': {'app': app, 'pod-template-hash': '5d4f8c7b9',
                       'track': 'stable' if number % 10 else 'canary'},
            'annotations': {vif.ANNOTATION: annotation(number)},
            'creationTimestamp': '2025-01-01T00:00:00Z'},
        'spec': {'nodeName': host, 'serviceAccountName': 'default',
                 'containers': [{'name': 'main', 'ports': [
                     {'name': 'http', 'containerPort': 8080,
                      'protocol': 'TCP'}]}]},
        'status': {'phase': 'Running'}}


def annotation(number):
    """A VIF as the controller writes it, IPv4 and IPv6."""
    def data(content, **more):
        return {'versioned_object.data': content, **more}

    low, high = number % 250 + 1, number // 250
    subnets = [data({'ips': data({'objects': [data({'address': address})]})})
               for address in ('10.%d.%d.%d' % (*divmod(high, 250), low),
                               'fd00::%x' % (number + 1))]
    return json.dumps(data({'default_vif': data({
        'id': str(uuid.UUID(int=number + (1 << 65))),
        'address': '02:00:%02x:%02x:%02x:%02x' % tuple(
            number.to_bytes(4, 'big')),
        'network': data({'id': NETWORK,
                         'subnets': data({'objects': subnets})})},
        **{'versioned_object.name': 'VIFOpenVSwitch'})}, **{
            'versioned_object.name': 'PodState',
            'versioned_object.version': '1.0'}))


def policy(number, namespace_number, spec):
    return {'metadata': {'uid': 'policy-%d' % number,
                         'name': 'policy-%d' % number,
                         'namespace': 'ns-%d' % namespace_number},
            'spec': spec}


def _app(chance):
    return {'matchLabels': {'app': 'app-%d' % chance.randrange(APPS)}}


def _team(chance):
    return {'matchLabels': {'team': 'team-%d' % chance.randrange(TEAMS)}}


def _deny(_chance):
    return {'podSelector': {}, 'policyTypes': ['Ingress', 'Egress']}


def _from_apps(chance):
    return {'podSelector': _app(chance), 'ingress': [
        {'from': [{'podSelector': _app(chance)} for _ in range(2)],
         'ports': [{'port': 'http'}, {'port': 9090}]}]}


def _from_team(chance):
    return {'podSelector': _app(chance), 'ingress': [
        {'from': [{'namespaceSelector': _team(chance)}],
         'ports': [{'port': 443}]}]}


def _from_all(chance):
    return {'podSelector': _app(chance), 'ingress': [
        {'from': [{'namespaceSelector': {}}], 'ports': [{'port': 8443}]}]}


def _to_database(chance):
    return {'podSelector': _app(chance), 'policyTypes': ['Egress'],
            'egress': [
        {'to': [{'podSelector': _app(chance),
                 'namespaceSelector': _team(chance)}],
         'ports': [{'port': 5432}]},
        {'to': [{'namespaceSelector': {'matchLabels': {
            'kubernetes.io/metadata.name': 'ns-0'}}}],
         'ports': [{'port': 53, 'protocol': 'UDP'}, {'port': 53}]}]}


def _to_outside(chance):
    return {'podSelector': _app(chance), 'policyTypes': ['Egress'],
            'egress': [{'to': [{'ipBlock': {
                'cidr': '0.0.0.0/0', 'except': ['10.0.0.0/8']}}],
                'ports': [{'port': 443}, {'port': 8000, 'endPort': 8999}]}]}
