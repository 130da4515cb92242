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

"""etcd, the API server, the controller manager, the scheduler."""

import datetime
import http.client
import json
import secrets
import ssl
import subprocess

from kclab import parts
from kclab import procs
from kclab import settings

USERS = (('admin', 'admin', 'system:masters'),
         ('kcm', 'system:kube-controller-manager', ''),
         ('scheduler', 'system:kube-scheduler', ''),
         ('kube-proxy', 'system:kube-proxy', ''))


def make_credentials(lab):
    """CA, the API server's certificate, tokens, and a kubeconfig for each."""
    where = lab.kube
    if (where / 'tokens.csv').exists():
        return
    where.mkdir(parents=True, exist_ok=True, mode=0o700)

    def openssl(*args):
        done = subprocess.run(['openssl', *args], cwd=where, text=True,
                              capture_output=True)
        if done.returncode:
            raise settings.LabError(f'openssl {args[0]}: {done.stderr}')

    names = ['localhost', 'kubernetes', 'kubernetes.default',
             'kubernetes.default.svc', 'kubernetes.default.svc.cluster.local']
    addresses = [settings.CP_IP, settings.CP_IP6, '127.0.0.1',
                 settings.SERVICE_IP]
    (where / 'san').write_text('subjectAltName=' + ','.join(
        [f'DNS:{n}' for n in names] + [f'IP:{a}' for a in addresses]))
    key = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes')
    openssl('req', '-x509', *key, '-keyout', 'ca.key', '-out', 'ca.crt',
            '-subj', '/CN=kuryr-cilium-lab', '-days', '3650')
    openssl('req', *key, '-keyout', 'apiserver.key', '-out', 'apiserver.csr',
            '-subj', '/CN=kube-apiserver')
    openssl('x509', '-req', '-in', 'apiserver.csr', '-CA', 'ca.crt',
            '-CAkey', 'ca.key', '-CAcreateserial', '-days', '3650',
            '-extfile', 'san', '-out', 'apiserver.crt')
    openssl('genrsa', '-out', 'sa.key', '2048')
    lines = []
    users = list(USERS) + [(n.name, f'system:node:{n.name}', 'system:nodes')
                           for n in settings.ALL_NODES]
    for name, user, group in users:
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{user}'
                     + (f',"{group}"' if group else ''))
        settings.write(where / f'{name}.conf',
                       kubeconfig(where / 'ca.crt', token), 0o600)
        if name == 'admin':
            settings.write(where / 'admin.token', token, 0o600)
    settings.write(where / 'tokens.csv', '\n'.join(lines) + '\n', 0o600)


def kubeconfig(ca, token):
    return settings.template('kubeconfig.in', api=settings.API, ca=ca,
                             token=token)


def make_parts(lab):
    where = lab.kube
    etcd_url, peer_url = 'http://127.0.0.1:2379', 'http://127.0.0.1:2380'

    def etcd():
        return [lab.tool('etcd'), f'--data-dir={lab.state}/etcd',
                '--unsafe-no-fsync', '--log-level=warn',
                f'--listen-client-urls={etcd_url}',
                f'--advertise-client-urls={etcd_url}',
                f'--listen-peer-urls={peer_url}',
                f'--initial-advertise-peer-urls={peer_url}',
                f'--initial-cluster=default={peer_url}']

    def apiserver():
        ca = where / 'ca.crt'
        return [lab.tool('kube-apiserver'), f'--etcd-servers={etcd_url}',
                '--bind-address=0.0.0.0',
                f'--advertise-address={settings.CP_IP}',
                '--secure-port=6443',
                f'--tls-cert-file={where}/apiserver.crt',
                f'--tls-private-key-file={where}/apiserver.key',
                f'--client-ca-file={ca}',
                # Without these two the controller manager and the scheduler
                # log an error every second.
                f'--requestheader-client-ca-file={ca}',
                '--requestheader-allowed-names=front-proxy',
                f'--token-auth-file={where}/tokens.csv',
                '--authorization-mode=Node,RBAC', '--allow-privileged=true',
                '--service-cluster-ip-range='
                f'{settings.SERVICE_CIDR},{settings.SERVICE_CIDR6}',
                '--service-account-issuer=https://kubernetes.default.svc',
                f'--service-account-key-file={where}/sa.key',
                f'--service-account-signing-key-file={where}/sa.key',
                '--kubelet-preferred-address-types=InternalIP',
                '--profiling=false', '--shutdown-delay-duration=0s']

    def as_user(name):
        config = where / f'{name}.conf'
        return [f'--kubeconfig={config}',
                f'--authentication-kubeconfig={config}',
                f'--authorization-kubeconfig={config}',
                '--leader-elect=false', '--profiling=false',
                '--bind-address=127.0.0.1']

    def kcm():
        # As admin: one service account per controller adds 5 s to its start.
        return [lab.tool('kube-controller-manager'), *as_user('admin'),
                '--use-service-account-credentials=false',
                f'--service-account-private-key-file={where}/sa.key',
                f'--root-ca-file={where}/ca.crt']

    def scheduler():
        return [lab.tool('kube-scheduler'), *as_user('scheduler')]

    return [
        parts.Part(lab, 'etcd', etcd,
                   ready=parts.http_answers('127.0.0.1', 2379, '/health')),
        parts.Part(lab, 'kube-apiserver', apiserver,
                   ready=parts.http_answers('127.0.0.1', 6443, '/readyz',
                                            secure=True)),
        parts.Part(lab, 'kcm', kcm,
                   ready=lambda: get(lab, '/api/v1/namespaces/default/'
                                          'serviceaccounts/default')),
        parts.Part(lab, 'scheduler', scheduler,
                   ready=parts.http_answers('127.0.0.1', 10259, '/healthz',
                                            secure=True))]


def call(lab, method, path, body=None, timeout=10):
    """One request to the API server as administrator.

    :returns: the object, or None for 404.
    """
    def request():
        context = ssl.create_default_context(cafile=lab.kube / 'ca.crt')
        link = http.client.HTTPSConnection(settings.CP_IP, 6443,
                                           timeout=timeout, context=context)
        try:
            link.request(
                method, path, json.dumps(body) if body else None,
                {'Authorization': f'Bearer {token}',
                 'Content-Type': 'application/json'})
            answer = link.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as exc:
            raise OSError(str(exc)) from exc
        finally:
            link.close()

    token = (lab.kube / 'admin.token').read_text()
    status, data = procs.in_netns(parts.CP_NETNS, request)
    if status == 404:
        return None
    if status >= 300:
        raise settings.LabError(f'{method} {path}: {status} '
                                f'{data[:300].decode(errors="replace")}')
    return json.loads(data)


def get(lab, path):
    return call(lab, 'GET', path)


def ready_nodes(lab):
    """Names of the nodes that the API server calls Ready."""
    found = get(lab, '/api/v1/nodes?resourceVersion=0') or {'items': []}
    return {n['metadata']['name'] for n in found['items']
            if any(c['type'] == 'Ready' and c['status'] == 'True'
                   for c in n['status'].get('conditions', []))}


def available(lab, namespace, name):
    """Whether a Deployment has as many pods available as it wants."""
    found = get(lab, f'/apis/apps/v1/namespaces/{namespace}/deployments/'
                     f'{name}')
    return found is not None and (
        found['spec']['replicas'] ==
        found['status'].get('availableReplicas', 0))


def reported(lab, node):
    """When a node's kubelet last reported: seconds since the epoch."""
    lease = get(lab, '/apis/coordination.k8s.io/v1/namespaces/'
                     f'kube-node-lease/leases/{node}')
    if lease is None:
        return 0
    return datetime.datetime.fromisoformat(
        lease['spec']['renewTime'].replace('Z', '+00:00')).timestamp()


def service_account_token(lab, namespace, name, seconds=30 * 86400):
    """What `kubectl create token` does."""
    answer = call(
        lab, 'POST', f'/api/v1/namespaces/{namespace}/serviceaccounts/{name}'
        '/token', {'apiVersion': 'authentication.k8s.io/v1',
                   'kind': 'TokenRequest',
                   'spec': {'expirationSeconds': seconds}})
    if answer is None:
        raise settings.LabError(f'no service account {namespace}/{name}')
    return answer['status']['token']


def apply(lab, *paths):
    """Apply manifests with kubectl."""
    _kubectl(lab, 'apply', *(a for p in paths for a in ('-f', p)))


def apply_folder(lab, path):
    """Apply the kinds that a folder's kustomization lists; they serve then."""
    _kubectl(lab, 'apply', '-k', path)
    _kubectl(lab, 'wait', '--for=condition=Established', '--timeout=60s',
             'crd', '--all')


def _kubectl(lab, *args):
    parts.run(lab, [lab.tool('kubectl'), f'--kubeconfig={lab.kubeconfig}',
                    *args])
