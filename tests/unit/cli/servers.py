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

"""An agent and an API server that a CLI can be pointed at.

The agent's API is the real one over a real socket, with answers of the test;
the API server is a small HTTP server that only lists.
"""

import http.server
import io
import json
import os
import pathlib
import threading

import fixtures

from kuryr_cilium.agent import api
from kuryr_cilium.agent import describe
from kuryr_cilium.cli import cluster
from kuryr_cilium.cli import compiled
from kuryr_cilium.cli import shell
from kuryr_cilium.k8s import resources
from kuryr_cilium.monitor import events
from kuryr_cilium.policy import model

_KUBECONFIG = '''
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters: [{name: test, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: admin, user: {token: secret}}]
'''

RESOURCES = {'pods': resources.PODS, 'namespaces': resources.NAMESPACES,
             'nodes': resources.NODES, 'services': resources.SERVICES,
             'slices': resources.ENDPOINT_SLICES}


class Kubernetes(fixtures.Fixture):
    """Lists what it is given.

    :ivar cluster: a cluster.Cluster.
    :ivar refused: plurals of resources that may not be listed.
    """

    def __init__(self, objects=cluster.Cluster()):
        self.cluster = objects
        self.refused = set()

    def _setUp(self):
        fixture = self

        class Handler(http.server.BaseHTTPRequestHandler):

            def do_GET(self):
                status, body = fixture.answer(self.path.partition('?')[0])
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format, *args):
                pass

        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,),
                         daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.kubeconfig = folder / 'kubeconfig'
        self.kubeconfig.write_text(_KUBECONFIG % server.server_port)

    def answer(self, path):
        """(status, body) for the list at a path."""
        name = path.rpartition('/')[2]
        if name in self.refused:
            return 403, {'message': '%s is forbidden' % name}
        for field, resource in RESOURCES.items():
            if path == resource.path():
                return 200, {'metadata': {}, 'items': list(
                    getattr(self.cluster, field))}
        for resource in cluster.POLICIES:
            if path == resource.path():
                found = self.cluster.policies.get(resource.kind)
                if found is not None:
                    return 200, {'metadata': {}, 'items': list(found)}
        return 404, {'message': 'there is no %s' % path}


class Agent(fixtures.Fixture):
    """The local API of an agent that has loaded what a cluster compiles to.

    :param host: its node.
    :ivar endpoints: what is plugged.
    :ivar damage: function of an answer of /v1/trace that changes it.
    :ivar asked: queries of /v1/trace.
    :ivar described: what /v1/policies answers.
    :ivar services: what /v1/services answers.
    :ivar backends: (address, port, protocol) -> what /v1/backends answers of
        what is a service's.
    """

    def __init__(self, host, objects):
        self.host = host
        self.ring = events.Ring(100)
        self.damage = lambda answer: None
        self.asked = []
        self.described = []
        self.services = describe.services({}, None, {}, {})
        self.backends = {}
        self.load(objects)

    def load(self, objects):
        """Bring in force what the controller compiles of objects."""
        self._compiled = compiled.Compiled(objects)
        found = [self._compiled.endpoint(obj['metadata']['uid'])
                 for obj in objects.pods]
        self.endpoints = [
            _endpoint(endpoint) for endpoint in found
            if endpoint is not None and endpoint.host == self.host]

    def _setUp(self):
        folder = self.useFixture(fixtures.TempDir()).path
        self.socket = os.path.join(folder, 'run', 'api.sock')
        server = api.APIServer(self.socket, {
            '/v1/status': lambda: {'host': self.host},
            '/v1/endpoints': lambda: self.endpoints,
            '/v1/policies': lambda: self.described,
            '/v1/services': lambda: self.services,
            '/v1/rulesets': self._rulesets,
        }, self.ring, {'/v1/trace': self._trace,
                       '/v1/backends': self._backends})
        server.start()
        self.addCleanup(server.stop)
        self.addCleanup(self.ring.close)

    def _rulesets(self):
        return [{'ruleset': 7, 'ruleset_id': ruleset, 'direction': '',
                 'endpoints': [], 'groups': 1, 'ports': 2, 'peers': 5}
                for ruleset in sorted({
                    endpoint[direction]['ruleset']
                    for endpoint in self.endpoints
                    for direction in ('ingress', 'egress')})]

    def _backends(self, query):
        return self.backends.get(
            (query['address'], int(query['port']), int(query['protocol'])),
            {'service': None, 'backends': []})

    def _trace(self, query):
        self.asked.append(query)
        decision = self._compiled.judge(
            query['uid'], model.Direction(query['direction']), query['peer'],
            int(query['protocol']), int(query['port']))
        answer = {**query, 'class': 21, 'entity': 'pod', 'prefix': '',
                  'ruleset': 7, 'ruleset_id': decision.ruleset, 'bit': 0,
                  'verdict': decision.verdict, 'reason': decision.reason,
                  'rule': list(decision.rules), 'tier': decision.tier}
        self.damage(answer)
        return answer


def _endpoint(endpoint):
    def side(ruleset):
        return {'ruleset': ruleset, 'verdict': 'by policy', 'why': '',
                'policies': []}

    return {
        'namespace': endpoint.namespace, 'name': endpoint.name,
        'uid': endpoint.uid, 'state': 'ready', 'container_id': 'c1',
        'interface': 'eth0', 'netns': '/run/netns/x',
        'port_id': endpoint.vif_id, 'network_id': endpoint.network_id,
        'mac': endpoint.mac, 'addresses': list(endpoint.addresses),
        'ingress': side(endpoint.ingress), 'egress': side(endpoint.egress),
        'fastpath': False, 'connections': 3}


def run(agent, kubernetes, *args):
    """Run the CLI.

    :param kubernetes: None: there is no kubeconfig.
    :returns: (exit code, output).
    """
    output = io.StringIO()
    options = ['--socket', agent.socket]
    if kubernetes is not None:
        options += ['--kubeconfig', str(kubernetes.kubeconfig)]
    app = shell.Shell('1', stdout=output, stderr=output)
    code = app.run([*options, *args])
    return code, output.getvalue()
