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

"""From the creation of a policy to its being enforced on a running pod.

A stream of datagrams, one each millisecond, crosses the nodes. A policy that
denies it is created: the time until the last datagram arrives is taken from
the moment before the request to the API server. The same for its deletion,
until the first arrives again. The node of the receiver is full of pods; the
policy selects the receiver, or (``all``) every one of them. The figures of
``compile`` are there too.
"""

import collections
import threading
import time

from benchmarks import compile as compile_
from benchmarks import lab

ROUNDS = 60
#: On the node of the receiver, with it.
ENDPOINTS = 200
#: What a policy selects: name in the figures -> labels.
SELECTED = {'': {'app': 'receiver'}, '_all': {'crowd': 'yes'}}
PORT = 7001
#: Seconds without a datagram after which the stream counts as cut.
SILENCE = 0.3
POLICIES = '/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies'


class Ear:
    """Times at which datagrams arrived, read as they are printed."""

    def __init__(self, process):
        self.last = 0.0
        self.first_after = None
        self._mark = None
        self._thread = threading.Thread(
            target=self._read, args=(process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            self.last = float(line)
            if self._mark is not None and self.last >= self._mark:
                self.first_after, self._mark = self.last, None

    def wait_silence(self):
        """Wait until nothing arrives; the time of the last arrival."""
        deadline = time.monotonic() + 30
        while time.monotonic() - self.last < SILENCE:
            if time.monotonic() > deadline:
                raise RuntimeError('the policy was not enforced in 30 s')
            time.sleep(0.01)
        return self.last

    def wait_sound(self, mark):
        """Wait for an arrival after mark; the time of the first."""
        self.first_after, self._mark = None, mark
        deadline = time.monotonic() + 30
        while self.first_after is None:
            if time.monotonic() > deadline:
                raise RuntimeError('the stream was not heard in 30 s')
            time.sleep(0.001)
        return self.first_after


def crowd(api, namespace, node, labels):
    """Fill a node with pods."""
    deployments = '/apis/apps/v1/namespaces/%s/deployments' % namespace
    body = lab.pod('crowd', node, labels)
    body['spec']['containers'][0]['imagePullPolicy'] = 'IfNotPresent'
    wanted = ENDPOINTS - 1
    api.request('POST', deployments, {
        'metadata': {'name': 'crowd'},
        'spec': {'replicas': wanted, 'selector': {'matchLabels': labels},
                 'template': {'metadata': {'labels': labels},
                              'spec': body['spec']}}})
    deadline = time.monotonic() + 600
    ready = 0
    while ready < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError('%d of %d pods were ready within 600 s' % (
                ready, wanted))
        time.sleep(2)
        ready = api.request('GET', deployments + '/crowd')['status'].get(
            'readyReplicas', 0)
        lab.say('%d of %d pods are ready', ready, wanted)


def turn(api, policies, ear, labels):
    """Create a policy and delete it: ms until it is in force, until lifted."""
    begin = time.monotonic()
    api.request('POST', policies, {
        'apiVersion': 'networking.k8s.io/v1', 'kind': 'NetworkPolicy',
        'metadata': {'name': 'deny'},
        'spec': {'podSelector': {'matchLabels': labels},
                 'policyTypes': ['Ingress']}})
    denied = (ear.wait_silence() - begin) * 1000
    begin = time.monotonic()
    api.request('DELETE', policies + '/deny')
    return denied, (ear.wait_sound(begin) - begin) * 1000


def run():
    """Figures and context of the benchmark."""
    api = lab.API()
    # (what, selected) -> ms.
    found = collections.defaultdict(list)
    with lab.namespace(api) as namespace:
        sender, _ = lab.start(api, lab.pod('sender', 'node-a'))
        receiver, _ = lab.start(api, lab.pod('receiver', 'node-b', {
            label: value for labels in SELECTED.values()
            for label, value in labels.items()}))
        crowd(api, namespace, 'node-b', SELECTED['_all'])
        policies = POLICIES % namespace
        with lab.in_pod(receiver, *lab.script('stream.py'), 'receive',
                        str(PORT)) as ear_process, \
                lab.in_pod(sender, *lab.script('stream.py'), 'send',
                           receiver['status']['podIP'], str(PORT)):
            ear = Ear(ear_process)
            ear.wait_sound(time.monotonic())
            for number in range(ROUNDS):
                for name, labels in SELECTED.items():
                    denied, allowed = turn(api, policies, ear, labels)
                    found['enforced', name].append(denied)
                    found['allowed', name].append(allowed)
                    lab.say('%2d%s: denied after %4.0f ms, allowed after '
                            '%4.0f ms', number, name, denied, allowed)
    figures, context = compile_.run()
    return ({
        **figures,
        **{'policy_%s%s_p%d_ms' % (what, name, part): lab.percentile(
            values, part / 100) for (what, name), values in found.items()
           for part in (50, 99)},
    }, {**context, 'rounds': ROUNDS, 'resolution_ms': 1,
        'endpoints': ENDPOINTS})
