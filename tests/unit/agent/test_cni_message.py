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

import json

import hypothesis
from hypothesis import strategies as st

from kuryr_cilium.agent import cni_message
from kuryr_cilium.agent import pod
from kuryr_cilium import exceptions
from tests import base

CONFIG = {'cniVersion': '1.1.0', 'name': 'pods', 'type': 'kuryr-cilium-cni'}
ADD = {
    'CNI_COMMAND': 'ADD', 'CNI_CONTAINERID': 'c0ffee', 'CNI_IFNAME': 'eth0',
    'CNI_NETNS': '/run/netns/x', 'CNI_PATH': '/opt/cni/bin',
    'CNI_ARGS': 'IgnoreUnknown=1;K8S_POD_NAMESPACE=default;'
                'K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c0ffee;'
                'K8S_POD_UID=u-1'}
LAYOUT = pod.Layout(
    ifname='eth0', mac='fa:16:3e:00:00:01', mtu=1442, host_link='kc7c0b1b8e',
    addresses=(('10.99.0.5', 16, '10.99.0.1'), ('fd99::5', 64, None)),
    routes=(('0.0.0.0/0', '10.99.0.1'), ('192.0.2.0/24', None)))


def message(environment, body=CONFIG):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return b''.join(f'{name}={value}\0'.encode(errors='surrogateescape')
                    for name, value in environment.items()) + b'\0' + body


class TestParse(base.TestCase):

    def assertRefused(self, code, text, environment, body=CONFIG):
        error = self.assertRaises(exceptions.CNIError, cni_message.parse,
                                  message(environment, body))
        self.assertEqual(code, error.code, error)
        self.assertIn(text, str(error))

    def test_an_add(self):
        request = cni_message.parse(message(ADD))
        self.assertEqual(
            ('ADD', '1.1.0', 'c0ffee', 'eth0', '/run/netns/x', 'default',
             'web', 'u-1', 'default/web', CONFIG),
            (request.command, request.version, request.container_id,
             request.ifname, request.netns, request.namespace, request.name,
             request.uid, request.what, request.config))

    def test_a_del_needs_little(self):
        request = cni_message.parse(message({
            'CNI_COMMAND': 'DEL', 'CNI_CONTAINERID': 'c',
            'CNI_IFNAME': 'eth0'}))
        self.assertEqual(('', '', ''), (request.netns, request.uid,
                                        request.namespace))

    def test_status_gc_version_need_no_interface(self):
        for command in ('STATUS', 'GC', 'VERSION'):
            request = cni_message.parse(message({'CNI_COMMAND': command}))
            self.assertEqual('pods', request.what)

    def test_environment(self):
        for change, text in (
                ({'CNI_COMMAND': 'add'}, "'add'"),
                ({'CNI_COMMAND': ''}, 'ADD'),
                ({'CNI_CONTAINERID': ''}, 'CNI_CONTAINERID'),
                ({'CNI_CONTAINERID': '../x'}, 'CNI_CONTAINERID'),
                ({'CNI_IFNAME': ''}, 'CNI_IFNAME'),
                ({'CNI_IFNAME': '..'}, 'CNI_IFNAME'),
                ({'CNI_IFNAME': 'a/b'}, 'CNI_IFNAME'),
                ({'CNI_IFNAME': 'longer-than-fifteen'}, 'CNI_IFNAME'),
                ({'CNI_NETNS': ''}, 'CNI_NETNS'),
                ({'CNI_ARGS': 'K8S_POD_NAME'}, 'NAME=VALUE'),
                ({'CNI_ARGS': ''}, 'K8S_POD_NAMESPACE')):
            self.assertRefused(4, text, {**ADD, **change})

    def test_config(self):
        for body, code, text in (
                (b'', 7, 'standard input'), (b'{', 7, 'not JSON'),
                (b'[]', 7, 'object'), (b'\xff', 7, 'not JSON'),
                ({**CONFIG, 'cniVersion': '0.3.1'}, 1, '0.3.1'),
                ({'name': 'x'}, 1, '0.1.0'),
                ({**CONFIG, 'cniVersion': ['1.0.0']}, 1, '1.1.0')):
            self.assertRefused(code, text, ADD, body)
        self.assertRefused(7, '1.1.0', {'CNI_COMMAND': 'GC'},
                           {**CONFIG, 'cniVersion': '1.0.0'})

    def test_framing(self):
        for data in (b'', b'A=B', b'A=B\0', b'AB\0\0{}', b'x' * (2 << 20)):
            error = self.assertRaises(exceptions.CNIInputUnreadable,
                                      cni_message.parse, data)
            self.assertEqual(5, error.code)

    @hypothesis.given(st.binary(max_size=300))
    def test_whatever_comes_is_refused_with_a_code(self, data):
        self.assertRaises(exceptions.CNIError, cni_message.parse, data)

    @hypothesis.given(st.dictionaries(
        st.sampled_from(['CNI_ARGS', 'CNI_CONTAINERID', 'CNI_NETNS',
                         'CNI_IFNAME', 'CNI_COMMAND']),
        st.text(st.characters(exclude_characters='\0',
                              exclude_categories=['Cs']))))
    def test_whatever_the_variables_are(self, change):
        try:
            request = cni_message.parse(message({**ADD, **change}))
        except exceptions.CNIError as error:
            self.assertIn(error.code, (4, 7))
        else:
            self.assertNotIn('/', request.ifname + request.container_id)

    def test_the_timeout_is_within_the_clients(self):
        for config, wanted in (({}, 40), ({'timeout': 60}, 40),
                               ({'timeout': 20}, 18), ({'timeout': 3}, 1.5),
                               ({'timeout': 'x'}, 40), ({'timeout': 0}, 40)):
            request = cni_message.parse(message(ADD, {**CONFIG, **config}))
            self.assertEqual(wanted, request.timeout(40))

    def test_valid_attachments(self):
        self.assertEqual({('c1', 'eth0'), ('c2', 'net1')},
                         cni_message.valid_attachments({
                             'cni.dev/valid-attachments': [
                                 {'containerID': 'c1', 'ifname': 'eth0'},
                                 {'containerID': 'c2', 'ifname': 'net1'}]}))
        for config in ({}, {'cni.dev/valid-attachments': None},
                       {'cni.dev/valid-attachments': [{'ifname': 'x'}]},
                       {'cni.dev/valid-attachments': ['x']}):
            self.assertRaises(exceptions.CNIConfigInvalid,
                              cni_message.valid_attachments, config)


class TestAnswers(base.TestCase):

    def test_the_result_of_an_add(self):
        result = {
            'cniVersion': '1.1.0',
            'interfaces': [
                {'name': 'kc7c0b1b8e'},
                {'name': 'eth0', 'mac': 'fa:16:3e:00:00:01', 'mtu': 1442,
                 'sandbox': '/run/netns/x'}],
            'ips': [{'address': '10.99.0.5/16', 'gateway': '10.99.0.1',
                     'interface': 1},
                    {'address': 'fd99::5/64', 'interface': 1}],
            'routes': [{'dst': '0.0.0.0/0', 'gw': '10.99.0.1'},
                       {'dst': '192.0.2.0/24'}],
            'dns': {}}
        self.assertEqual(result, cni_message.success(
            LAYOUT, '/run/netns/x', '1.1.0'))
        result['cniVersion'] = '1.0.0'
        del result['interfaces'][1]['mtu']
        self.assertEqual(result, cni_message.success(
            LAYOUT, '/run/netns/x', '1.0.0'))
        result['cniVersion'] = '0.4.0'
        result['ips'][0]['version'] = '4'
        result['ips'][1]['version'] = '6'
        self.assertEqual(result, cni_message.success(
            LAYOUT, '/run/netns/x', '0.4.0'))

    def test_a_failure_in_a_version_that_is_known(self):
        self.assertEqual(
            {'cniVersion': '1.1.0', 'code': 11, 'msg': 'm', 'details': 'd'},
            cni_message.failure('9', 11, 'm', 'd'))

    def test_encoding(self):
        self.assertEqual(b'0\n', cni_message.encode(0, None))
        code, _, body = cni_message.encode(
            1, cni_message.versions('1.0.0')).partition(b'\n')
        self.assertEqual(b'1', code)
        self.assertEqual(['0.4.0', '1.0.0', '1.1.0'],
                         json.loads(body)['supportedVersions'])
