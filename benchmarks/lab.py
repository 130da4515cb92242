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

"""What the benchmarks ask of the lab: pods, nodes, the API server."""

import base64
import contextlib
import http.client
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = str(ROOT / 'tools' / 'lab' / 'lab')
CACHE = pathlib.Path(os.environ.get(
    'KURYR_CILIUM_CACHE', os.path.expanduser('~/.cache/kuryr-cilium')))
IMAGE = 'localhost/agnhost:1'
NAMESPACE = 'kuryr-cilium-bench'


def say(text, *args):
    print(text % args, flush=True)


def command(*args, **kwargs):
    """Run a command; what it prints is returned, a failure raises."""
    return subprocess.run(args, check=True, text=True,
                          stdout=subprocess.PIPE, **kwargs).stdout


def on_node(node, *args):
    """Run a command within a node of the lab."""
    return command(COMMAND, 'shell', node, '--', *args)


def loadgen():
    """Path of the load generator, built if its source has changed."""
    source = ROOT / 'benchmarks' / 'loadgen.c'
    binary = CACHE / 'benchmarks' / 'loadgen'
    binary.parent.mkdir(exist_ok=True)
    if (not binary.exists()
            or binary.stat().st_mtime < source.stat().st_mtime):
        command('gcc', '-Wall', '-Wextra', '-Werror', '-O2', '-static',
                '-o', str(binary), str(source))
    return str(binary)


class API:
    """The least client of the API server that can time what it asks."""

    def __init__(self):
        with open(os.environ['KUBECONFIG']) as stream:
            config = yaml.safe_load(stream)
        cluster = config['clusters'][0]['cluster']
        user = config['users'][0]['user']
        self.address = urllib.parse.urlparse(cluster['server'])
        self.context = ssl.create_default_context()
        if 'certificate-authority' in cluster:
            self.context.load_verify_locations(
                cluster['certificate-authority'])
        else:
            self.context.load_verify_locations(cadata=base64.b64decode(
                cluster['certificate-authority-data']).decode())
        self.headers = {'Content-Type': 'application/json'}
        if 'token' in user:
            self.headers['Authorization'] = 'Bearer ' + user['token']
        elif 'client-certificate' in user:
            self.context.load_cert_chain(user['client-certificate'],
                                         user['client-key'])
        self.connection = self.connect()

    def connect(self):
        return http.client.HTTPSConnection(
            self.address.hostname, self.address.port, context=self.context,
            timeout=60)

    def request(self, method, path, body=None, fine=()):
        self.connection.request(method, path,
                                json.dumps(body) if body else None,
                                self.headers)
        answer = self.connection.getresponse()
        data = json.loads(answer.read())
        if answer.status >= 300 and answer.status not in fine:
            raise RuntimeError('%s %s: %s' % (method, path,
                                              data.get('message')))
        return data

    def watch(self, path):
        """The objects of a watch, one after the other."""
        connection = self.connect()
        connection.request('GET', path, headers=self.headers)
        stream = connection.getresponse()
        try:
            for line in stream:
                event = json.loads(line)
                yield event['type'], event['object']
        finally:
            connection.close()


@contextlib.contextmanager
def namespace(api):
    """A namespace of our own that is gone afterwards."""
    path = '/api/v1/namespaces/' + NAMESPACE
    with_pods = path + '/pods'
    api.request('POST', '/api/v1/namespaces',
                {'metadata': {'name': NAMESPACE}}, fine=(409,))
    try:
        yield NAMESPACE
    finally:
        api.request('DELETE', '/apis/apps/v1/namespaces/%s/deployments'
                    % NAMESPACE)
        api.request('DELETE', with_pods + '?gracePeriodSeconds=0')
        api.request('DELETE', path)
        deadline = time.monotonic() + 180
        while (api.request('GET', path, fine=(404,)).get('code') != 404
               and time.monotonic() < deadline):
            time.sleep(0.2)


def pod(name, node=None, labels=None):
    """A pod that waits, without a service account."""
    spec = {
        'terminationGracePeriodSeconds': 0,
        'automountServiceAccountToken': False,
        'containers': [{'name': 'main', 'image': IMAGE, 'args': ['pause']}],
    }
    if node:
        spec['nodeSelector'] = {'kubernetes.io/hostname': node}
    return {'apiVersion': 'v1', 'kind': 'Pod',
            'metadata': {'name': name, 'labels': labels or {}}, 'spec': spec}


def start(api, body):
    """Create a pod and wait until it is ready.

    :returns: the pod, and the seconds from the request to Ready.
    """
    pods = '/api/v1/namespaces/%s/pods' % NAMESPACE
    begin = time.monotonic()
    made = api.request('POST', pods, body)
    query = urllib.parse.urlencode({
        'watch': 1, 'timeoutSeconds': 60,
        'fieldSelector': 'metadata.name=' + body['metadata']['name'],
        'resourceVersion': made['metadata']['resourceVersion']})
    for _, seen in api.watch(pods + '?' + query):
        conditions = {c['type']: c['status']
                      for c in seen['status'].get('conditions', ())}
        if conditions.get('Ready') == 'True':
            return seen, time.monotonic() - begin
    raise RuntimeError('pod %s was not ready within 60 s'
                       % body['metadata']['name'])


def stop(api, name):
    """Delete a pod and wait until it is gone from the API."""
    path = '/api/v1/namespaces/%s/pods/%s' % (NAMESPACE, name)
    api.request('DELETE', path + '?gracePeriodSeconds=0', fine=(404,))
    deadline = time.monotonic() + 60
    while api.request('GET', path, fine=(404,)).get('code') != 404:
        if time.monotonic() > deadline:
            raise RuntimeError('pod %s is still there after 60 s' % name)
        time.sleep(0.05)


def percentile(values, part):
    """The value below which that part (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def script(name):
    """The command that runs a script of the benchmarks within a node."""
    return [sys.executable, str(ROOT / 'benchmarks' / name)]


def endpoint(pod_seen):
    """What the agent of a pod's node says of it."""
    return json.loads(on_node(
        pod_seen['spec']['nodeName'], 'kuryr-cilium', 'endpoint', 'show',
        '%(namespace)s/%(name)s' % pod_seen['metadata'], '-f', 'json'))


def wait_verdict(pod_seen, direction, verdict):
    """Wait until a direction of a pod is judged as 'by policy' or so."""
    deadline = time.monotonic() + 30
    while endpoint(pod_seen)[direction]['verdict'] != verdict:
        if time.monotonic() > deadline:
            raise RuntimeError('%s of pod %s is not %r within 30 s' % (
                direction, pod_seen['metadata']['name'], verdict))
        time.sleep(0.1)


def process_on_node(node, *args):
    """A process within a node that is talked to by its pipes."""
    return process(COMMAND, 'shell', node, '--', *args)


def in_pod(pod_seen, *args):
    """A process within a pod's network namespace."""
    return process_on_node(
        pod_seen['spec']['nodeName'], 'nsenter',
        '--net=' + endpoint(pod_seen)['netns'], *args)


def ask_in_pod(pod_seen, *args):
    """Run a command in a pod's network namespace; what it prints."""
    return on_node(pod_seen['spec']['nodeName'], 'nsenter',
                   '--net=' + endpoint(pod_seen)['netns'], *args)


@contextlib.contextmanager
def process(*args):
    """A process that is talked to by its pipes, and ended after the block."""
    process = subprocess.Popen(
        args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        bufsize=1, start_new_session=True)
    try:
        yield process
    finally:
        # Its end of input tells it to clean up.
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def bpf_object(source):
    """Path of a compiled BPF program of the benchmarks."""
    path = ROOT / 'benchmarks' / source
    compiled = CACHE / 'benchmarks' / (path.stem + '.o')
    compiled.parent.mkdir(exist_ok=True)
    build = ROOT / 'kuryr_cilium' / 'datapath' / 'src' / 'build.sh'
    command(str(build), str(compiled), str(path))
    return str(compiled)
