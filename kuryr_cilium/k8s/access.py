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

"""Where the API server is and what proves who we are.

From a kubeconfig file, or from what the kubelet gives to a pod.
"""

import base64
import contextlib
import dataclasses
import os
import ssl
import tempfile
import threading
from typing import Optional

from oslo_log import log as logging
import yaml

from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Access:
    """The server and the credentials.

    Of each pair of a file and data at most one is set. Data are bytes as
    they stand in a file (PEM).

    :ivar server: URL without a path behind it.
    :ivar insecure: the server's certificate is not looked at.
    :ivar server_name: the name expected in the server's certificate, if it
        is not the host of the URL.
    """

    server: str
    ca_file: Optional[str] = None
    ca_data: Optional[bytes] = None
    cert_file: Optional[str] = None
    cert_data: Optional[bytes] = None
    key_file: Optional[str] = None
    key_data: Optional[bytes] = None
    token: Optional[str] = None
    token_file: Optional[str] = None
    insecure: bool = False
    server_name: Optional[str] = None

    def ssl_context(self):
        """A new TLS context; files are read as they are now.

        :raises: exceptions.KubernetesAccessInvalid if they can't be.
        """
        # NOTE: not ssl.create_default_context(): from Python 3.13 on it
        # refuses authorities without a key usage extension, which many a
        # cluster has.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.ca_file or self.ca_data:
                context.load_verify_locations(
                    cafile=self.ca_file,
                    cadata=self.ca_data.decode() if self.ca_data else None)
            elif not self.insecure:
                context.load_default_certs()
            if self.cert_file or self.cert_data:
                with (_as_file(self.cert_file, self.cert_data) as cert,
                      _as_file(self.key_file, self.key_data) as key):
                    context.load_cert_chain(cert, key)
        except (OSError, ValueError) as error:
            raise exceptions.KubernetesAccessInvalid(
                reason='certificates %s: %s' % (
                    ' '.join(filter(None, (self.ca_file, self.cert_file,
                                           self.key_file))), error)
            ) from error
        return context


class Token:
    """A bearer token that is read again when its file has changed.

    :param access: the credentials.
    """

    def __init__(self, access):
        self._text = access.token
        self._file = access.token_file if access.token is None else None
        self._seen = None
        self._lock = threading.Lock()

    def get(self):
        """The token, or None if there is none.

        :raises: exceptions.KubernetesAccessInvalid if the file can't be
            read and never could.
        """
        if self._file is None:
            return self._text
        with self._lock:
            try:
                # NOTE: the kubelet swaps a symbolic link, so a new token is
                # another inode.
                stat = os.stat(self._file)
                seen = (stat.st_ino, stat.st_mtime_ns)
                if seen != self._seen:
                    with open(self._file) as token:
                        self._text = token.read().strip()
                    self._seen = seen
            except (OSError, ValueError) as error:
                if not self._text:
                    raise exceptions.KubernetesAccessInvalid(
                        reason='token file %s: %s' % (self._file, error)
                    ) from error
                LOG.warning('The token file %s can not be read, the last '
                            'token is used: %s', self._file, error)
            return self._text


def from_conf(conf, environ=None):
    """The access that the configuration or the environment of a pod names.

    :raises: exceptions.KubernetesAccessInvalid.
    """
    environ = os.environ if environ is None else environ
    group = conf.kubernetes
    if group.kubeconfig:
        return from_kubeconfig(group.kubeconfig)
    server = group.api_url
    if not server:
        host = environ.get('KUBERNETES_SERVICE_HOST')
        port = environ.get('KUBERNETES_SERVICE_PORT', '443')
        if not host:
            raise exceptions.KubernetesAccessInvalid(
                reason='no kubeconfig, no api_url, and this is not a pod '
                       '(KUBERNETES_SERVICE_HOST is not set)')
        server = 'https://%s:%s' % ('[%s]' % host if ':' in host else host,
                                    port)
    secure = server.startswith('https:')
    with_cert = bool(group.client_cert_file)
    return Access(server=server.rstrip('/'),
                  ca_file=group.ca_file if secure else None,
                  cert_file=group.client_cert_file,
                  key_file=group.client_key_file,
                  token_file=group.token_file if secure and not with_cert
                  else None)


def from_kubeconfig(path):
    """The access that the current context of a kubeconfig file names.

    :raises: exceptions.KubernetesAccessInvalid with what is wrong in it.
    """
    try:
        with open(path) as file:
            document = yaml.safe_load(file)
        context = _named(document, 'contexts', 'context',
                         document['current-context'])
        cluster = _named(document, 'clusters', 'cluster', context['cluster'])
        user = _named(document, 'users', 'user', context['user'])
        for unsupported in ('exec', 'auth-provider', 'username'):
            if unsupported in user:
                raise exceptions.KubernetesAccessInvalid(
                    reason='kubeconfig %s: user.%s is not supported, use a '
                           'token, a tokenFile or a client certificate' % (
                               path, unsupported))
        folder = os.path.dirname(os.path.abspath(path))
        return Access(
            server=cluster['server'].rstrip('/'),
            ca_file=_path(folder, cluster, 'certificate-authority'),
            ca_data=_data(cluster, 'certificate-authority-data'),
            cert_file=_path(folder, user, 'client-certificate'),
            cert_data=_data(user, 'client-certificate-data'),
            key_file=_path(folder, user, 'client-key'),
            key_data=_data(user, 'client-key-data'),
            token=user.get('token'),
            token_file=_path(folder, user, 'tokenFile'),
            insecure=bool(cluster.get('insecure-skip-tls-verify')),
            server_name=cluster.get('tls-server-name'))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError,
            AttributeError) as error:
        raise exceptions.KubernetesAccessInvalid(
            reason='kubeconfig %s: %s' % (
                path, 'it has no %s' % error if isinstance(error, KeyError)
                else error)) from error


def _named(document, plural, singular, name):
    for item in document.get(plural) or ():
        if item['name'] == name:
            return item[singular] or {}
    raise KeyError('%s named %s' % (singular, name))


def _path(folder, section, key):
    return os.path.join(folder, section[key]) if section.get(key) else None


def _data(section, key):
    if not section.get(key):
        return None
    return base64.b64decode(''.join(section[key].split()), validate=True)


@contextlib.contextmanager
def _as_file(path, data):
    """A path for what OpenSSL reads from a file only."""
    if data is None:
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix='kuryr-cilium-') as file:
        file.write(data)
        file.flush()
        yield file.name
