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

import base64
import os
import types

import yaml

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import access
from tests import base


def conf(**options):
    known = dict(kubeconfig=None, api_url=None, token_file='/t',
                 ca_file='/c', client_cert_file=None, client_key_file=None)
    return types.SimpleNamespace(
        kubernetes=types.SimpleNamespace(**dict(known, **options)))


class TestFromConf(base.TestCase):

    def test_service_account_of_a_pod(self):
        self.assertEqual(
            access.Access(server='https://[2001:db8::1]:6443', ca_file='/c',
                          token_file='/t'),
            access.from_conf(conf(), {
                'KUBERNETES_SERVICE_HOST': '2001:db8::1',
                'KUBERNETES_SERVICE_PORT': '6443'}))

    def test_url_with_client_certificate(self):
        self.assertEqual(
            access.Access(server='https://api:6443', ca_file='/c',
                          cert_file='/cert', key_file='/key'),
            access.from_conf(conf(
                api_url='https://api:6443/', client_cert_file='/cert',
                client_key_file='/key'), {}))

    def test_no_token_without_tls(self):
        self.assertEqual(
            access.Access(server='http://127.0.0.1:8001'),
            access.from_conf(conf(api_url='http://127.0.0.1:8001'), {}))

    def test_nothing(self):
        error = self.assertRaises(exceptions.KubernetesAccessInvalid,
                                  access.from_conf, conf(), {})
        self.assertIn('kubeconfig', str(error))


class TestKubeconfig(base.TestCase):

    def read(self, cluster=None, user=None, **changes):
        document = {
            'current-context': 'x',
            'contexts': [{'name': 'other', 'context': {}},
                         {'name': 'x', 'context': {'cluster': 'c',
                                                   'user': 'u'}}],
            'clusters': [{'name': 'c', 'cluster': {
                'server': 'https://api:6443', **(cluster or {})}}],
            'users': [{'name': 'u', 'user': user}], **changes}
        path = self.create_tempfiles([('config', yaml.dump(document))])[0]
        return access.from_kubeconfig(path), os.path.dirname(path)

    def test_files_are_relative_to_the_kubeconfig(self):
        read, folder = self.read(
            {'certificate-authority': 'ca.crt', 'tls-server-name': 'name'},
            {'client-certificate': '/abs/c.crt', 'client-key': 'c.key',
             'tokenFile': 'token'})
        self.assertEqual(access.Access(
            server='https://api:6443', ca_file=folder + '/ca.crt',
            cert_file='/abs/c.crt', key_file=folder + '/c.key',
            token_file=folder + '/token', server_name='name'), read)

    def test_data(self):
        data = base64.b64encode(b'PEM').decode()
        read, _folder = self.read(
            {'certificate-authority-data': data,
             'insecure-skip-tls-verify': True},
            {'client-certificate-data': data, 'client-key-data': data,
             'token': 'secret'})
        self.assertEqual(access.Access(
            server='https://api:6443', ca_data=b'PEM', cert_data=b'PEM',
            key_data=b'PEM', token='secret', insecure=True), read)

    def test_refused(self):
        for changes, expected in (
                ({'user': {'exec': {}}}, 'user.exec'),
                ({'user': {'username': 'u'}}, 'user.username'),
                ({'current-context': 'y'}, 'context named y'),
                ({'clusters': None}, 'cluster named c'),
                ({'contexts': 'text'}, ''),
                ({'cluster': {'certificate-authority-data': '!'}}, '')):
            error = self.assertRaises(exceptions.KubernetesAccessInvalid,
                                      self.read, **changes)
            self.assertIn(expected, str(error))

    def test_unreadable(self):
        for text in ('', ': :', '[]'):
            path = self.create_tempfiles([('config', text)])[0]
            self.assertRaises(exceptions.KubernetesAccessInvalid,
                              access.from_kubeconfig, path)
        self.assertRaises(exceptions.KubernetesAccessInvalid,
                          access.from_kubeconfig, '/not/there')

    def test_certificates_that_can_not_be_read(self):
        read, _folder = self.read({'certificate-authority': 'none.crt'})
        error = self.assertRaises(exceptions.KubernetesAccessInvalid,
                                  read.ssl_context)
        self.assertIn('none.crt', str(error))


class TestToken(base.TestCase):

    def test_file_is_read_again(self):
        path = self.create_tempfiles([('token', 'one\n')])[0]
        token = access.Token(access.Access(server='', token_file=path))
        self.assertEqual('one', token.get())
        new = self.create_tempfiles([('token2', 'two\n')])[0]
        os.rename(new, path)
        self.assertEqual('two', token.get())
        os.unlink(path)
        self.assertEqual('two', token.get())

    def test_missing_file(self):
        token = access.Token(access.Access(server='', token_file='/no'))
        self.assertRaises(exceptions.KubernetesAccessInvalid, token.get)

    def test_none_and_fixed(self):
        self.assertIsNone(access.Token(access.Access(server='')).get())
        self.assertEqual('x', access.Token(access.Access(
            server='', token='x', token_file='/no')).get())
