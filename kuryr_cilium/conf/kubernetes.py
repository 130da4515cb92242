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

from oslo_config import cfg

GROUP = cfg.OptGroup(
    'kubernetes',
    title='Access to the Kubernetes API',
    help='In a pod nothing has to be set: the service account is used.')

_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount'

OPTS = [
    cfg.StrOpt('kubeconfig',
               help='Kubeconfig file with the cluster and the credentials '
                    'of its current context: a token, a token file or a '
                    'client certificate (no exec plugin). If set, the other '
                    'options of this group that name the server and the '
                    'credentials are not used.'),
    cfg.StrOpt('api_url',
               help='URL of the API server, as https://192.0.2.10:6443. If '
                    'unset, it is taken from the environment that the '
                    'kubelet gives to pods (KUBERNETES_SERVICE_HOST and '
                    'KUBERNETES_SERVICE_PORT).'),
    cfg.StrOpt('token_file',
               default=_ACCOUNT + '/token',
               help='File with the bearer token. It is read again when it '
                    'changes.'),
    cfg.StrOpt('ca_file',
               default=_ACCOUNT + '/ca.crt',
               help='File with the certificate authorities that may have '
                    'signed the certificate of the API server.'),
    cfg.StrOpt('client_cert_file',
               help='File with a client certificate, if there is no token.'),
    cfg.StrOpt('client_key_file',
               help='File with the key of client_cert_file.'),
    cfg.IntOpt('page_size',
               default=500, min=1,
               help='Objects a page when all of a kind are listed.'),
    cfg.IntOpt('timeout',
               default=10, min=1,
               help='Seconds to wait for an answer of the API server.'),
]


def register_opts(conf):
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def list_opts():
    return {GROUP: OPTS}
