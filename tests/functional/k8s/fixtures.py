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

"""A real etcd and kube-apiserver, on loopback ports of their own."""

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import serialization
import requests
import urllib3

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import access
from kuryr_cilium.k8s import client
from kuryr_cilium.k8s import resources
from tests import base

_KUBECONFIG = '''
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
clusters:
- name: test
  cluster: {server: "%(url)s", certificate-authority: %(ca)s}
users: [{name: admin, user: {token: %(token)s}}]
'''

# NOTE: taken at import: each test gets a HOME and a TMPDIR of its own.
_CACHE = os.environ.get('KURYR_CILIUM_CACHE',
                        os.path.expanduser('~/.cache/kuryr-cilium'))
_TMP = tempfile.gettempdir()

DEFINITIONS = resources.Resource(
    'customresourcedefinitions', 'CustomResourceDefinition',
    'apiextensions.k8s.io', namespaced=False)

_TOKEN = 'test-admin-token'
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def kube():
    """The multi-call binary that tools/lab builds."""
    path = os.path.join(_CACHE, 'bin', 'kube')
    if not os.path.exists(path):
        raise RuntimeError('%s is missing: run "tools/lab/lab build"' % path)
    return path


def _served(api, path):
    """Whether something is found under a path."""
    try:
        api.get(path)
    except (exceptions.KubernetesNotFound, exceptions.KubernetesBusy,
            exceptions.KubernetesUnavailable):
        # NOTE: its storage is made when it is first asked for.
        return False
    return True


def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class KubeAPI:
    """An API server with its etcd: nothing else of Kubernetes runs.

    :param services: the addresses of services.
    """

    def __init__(self, services='10.96.0.0/16'):
        self._services = services
        self.folder = tempfile.mkdtemp(prefix='kuryr-cilium-kube-', dir=_TMP)
        self._etcd_port = free_port()
        self._peer_port = free_port()
        self._port = free_port()
        self.url = 'https://127.0.0.1:%d' % self._port
        self.ca = self._path('certs', 'apiserver.crt')
        self.kubeconfig = self._path('kubeconfig')
        self._etcd = None
        self._server = None

    def start(self):
        """Start both and wait until they serve."""
        with open(self._path('tokens.csv'), 'w') as tokens:
            tokens.write('%s,admin,1,system:masters\n'
                         'nobody-token,nobody,2\n' % _TOKEN)
        with open(self.kubeconfig, 'w') as file:
            file.write(_KUBECONFIG % {'url': self.url, 'ca': self.ca,
                                      'token': _TOKEN})
        key = rsa.generate_private_key(65537, 2048)
        with open(self._path('sa.key'), 'wb') as file:
            file.write(key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption()))
        client_url = 'http://127.0.0.1:%d' % self._etcd_port
        peer_url = 'http://127.0.0.1:%d' % self._peer_port
        self._etcd = self._run(
            'etcd', '--data-dir', self._path('etcd'), '--unsafe-no-fsync',
            '--log-level=warn', '--listen-client-urls', client_url,
            '--advertise-client-urls', client_url,
            '--listen-peer-urls', peer_url,
            '--initial-advertise-peer-urls', peer_url,
            '--initial-cluster', 'default=' + peer_url)
        self.start_server()
        base.wait_until(self._default_namespace, 30, 'namespace default')

    def start_server(self):
        """Start the API server and wait until it is ready."""
        self._server = self._run(
            'kube-apiserver',
            '--etcd-servers=http://127.0.0.1:%d' % self._etcd_port,
            '--etcd-compaction-interval=0', '--bind-address=127.0.0.1',
            '--secure-port=%d' % self._port,
            '--advertise-address=127.0.0.1',
            '--cert-dir', self._path('certs'),
            '--token-auth-file', self._path('tokens.csv'),
            '--authorization-mode=RBAC',
            '--service-cluster-ip-range=' + self._services,
            '--service-account-issuer=https://kubernetes.default.svc',
            '--service-account-key-file', self._path('sa.key'),
            '--service-account-signing-key-file', self._path('sa.key'),
            '--endpoint-reconciler-type=none', '--profiling=false',
            '--disable-admission-plugins=ServiceAccount',
            '--shutdown-delay-duration=0s')
        base.wait_until(self._ready, 60, self._why, interval=0.1)

    def stop_server(self):
        """Kill the API server; etcd goes on."""
        _end(self._server)

    def freeze_server(self):
        """Let the API server hang: it keeps its connections, in silence."""
        self._server.send_signal(signal.SIGSTOP)

    def thaw_server(self):
        """Let it go on."""
        self._server.send_signal(signal.SIGCONT)

    def compact(self):
        """Let etcd forget all old versions, as it does every five minutes."""
        etcd = 'http://127.0.0.1:%d/v3/kv/' % self._etcd_port
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(etcd + 'range', json={'key': 'AA=='},
                                  timeout=10)
            session.post(etcd + 'compaction', timeout=10, json={
                'revision': answer.json()['header']['revision'],
                'physical': True}).raise_for_status()

    def stop(self):
        """Kill both and remove what they wrote."""
        for process in (self._server, self._etcd):
            if process is not None:
                _end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, token=_TOKEN, page_size=500, timeout=10):
        """A new client of the server."""
        return client.Client(
            access.Access(server=self.url, ca_file=self.ca, token=token),
            timeout=timeout, page_size=page_size, component='tests')

    def namespace(self, test):
        """A new namespace of a test's own, emptied and deleted later."""
        api = self.client()
        name = api.create(resources.NAMESPACES.path(), {
            'metadata': {'generateName': 'test-'}})['metadata']['name']
        test.addCleanup(api.close)
        test.addCleanup(api.delete, resources.NAMESPACES.path(name=name))
        for resource in (resources.PODS, resources.NETWORK_POLICIES):
            # NOTE: no controller runs that would do it.
            test.addCleanup(api.delete, resource.path(name),
                            {'gracePeriodSeconds': 0})
        return name

    def define(self, test, resource, versions=None):
        """Install the definition of a kind, with status, for a test.

        :param versions: other ones than the resource's.
        """
        api = self.client()
        test.addCleanup(api.close)
        name = '%s.%s' % (resource.plural, resource.group)
        versions = versions or [resource.version]
        api.create(DEFINITIONS.path(), {
            'metadata': {'name': name, 'annotations': {
                'api-approved.kubernetes.io': 'unapproved, for tests'}},
            'spec': {
                'group': resource.group,
                'scope': 'Namespaced' if resource.namespaced else 'Cluster',
                'names': {'plural': resource.plural, 'kind': resource.kind,
                          'singular': resource.kind.lower()},
                'versions': [{
                    'name': version, 'served': True,
                    'storage': version == versions[0],
                    'subresources': {'status': {}},
                    'schema': {'openAPIV3Schema': {
                        'type': 'object',
                        'x-kubernetes-preserve-unknown-fields': True}}}
                    for version in versions]}})
        test.addCleanup(self.undefine, resource)
        path = '/apis/%s/%s/%s' % (resource.group, versions[0],
                                   resource.plural)
        base.wait_until(lambda: _served(api, path), 30, path)

    def undefine(self, resource):
        """Remove a definition and all objects of the kind; idempotent."""
        with contextlib.closing(self.client()) as api:
            path = DEFINITIONS.path(name='%s.%s' % (
                resource.plural, resource.group))
            try:
                api.delete(path)
            except exceptions.KubernetesNotFound:
                return
            base.wait_until(lambda: not _served(api, path), 60, path)

    def _path(self, *parts):
        return os.path.join(self.folder, *parts)

    def _run(self, name, *arguments):
        with open(self._path(name + '.log'), 'ab') as log:
            return subprocess.Popen(
                [kube(), name, *arguments], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, preexec_fn=_die_with_parent,
                env={'PATH': os.environ['PATH'], 'HOME': self.folder})

    def _ready(self):
        for process in (self._etcd, self._server):
            if process.poll() is not None:
                raise AssertionError(self._why())
        try:
            with requests.Session() as session:
                session.trust_env = False
                return session.get(self.url + '/readyz', timeout=2,
                                   verify=self.ca).text == 'ok'
        except (requests.RequestException, OSError,
                urllib3.exceptions.HTTPError):
            return False

    def _default_namespace(self):
        api = self.client()
        try:
            return api.get(resources.NAMESPACES.path(name='default'))
        finally:
            api.close()

    def _why(self):
        ends = []
        for name in ('etcd', 'kube-apiserver'):
            path = self._path(name + '.log')
            if os.path.exists(path):
                with open(path) as log:
                    ends.append('%s: %s' % (name, log.read()[-1500:]))
        return '\n'.join(ends)


def _end(process):
    process.kill()
    process.wait()


_shared = []


def shared():
    """The KubeAPI that all tests of this process use."""
    if not _shared:
        api = KubeAPI()
        atexit.register(api.stop)
        api.start()
        _shared.append(api)
    return _shared[0]


def pod(name, node='node-1', **labels):
    """A pod as a user writes it."""
    return {'metadata': {'name': name, 'labels': labels},
            'spec': {'nodeName': node,
                     'containers': [{'name': 'c', 'image': 'none'}]}}
