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

"""Who is there: the pods, nodes and outsiders between which is probed.

Three namespaces of three pods each, so placed that each namespace has pods
on both nodes; the two nodes; and two hosts outside the cluster (addresses of
the lab's control plane, which is behind Neutron's router).
"""

import dataclasses
from typing import Iterator

from tests.e2e import pods as e2e_pods

NAMESPACES = ('x', 'y', 'z')
PODS = ('a', 'b', 'c')
OUTSIDE = ('out-1', 'out-2')
PORTS = (80, 81)
#: Those of a truth table's cell, in its order.
WHATS = (('tcp', 80), ('tcp', 81), ('udp', 80), ('udp', 81), ('icmp', None))
#: These are judged, but not sent: the lab's kernel need not have SCTP.
ON_PAPER = (('sctp', 80), ('sctp', 81))
VERSIONS = (4, 6)

#: Labels. Two of the namespaces have a label in common, and so have two pods.
NAMESPACE_LABELS = {'x': {'ns': 'x', 'team': 'red'},
                    'y': {'ns': 'y', 'team': 'blue'},
                    'z': {'ns': 'z', 'team': 'blue'}}
POD_LABELS = {'a': {'pod': 'a', 'app': 'web'},
              'b': {'pod': 'b', 'app': 'web', 'tier': 'back'},
              'c': {'pod': 'c', 'app': 'db', 'tier': 'back'}}
#: Pod -> (name, port, protocol). One name stands for different numbers, and
#: in pod c for two protocols at once.
NAMED_PORTS = {
    'a': (('http', 80, 'TCP'), ('alt', 81, 'TCP'), ('dns', 80, 'UDP')),
    'b': (('http', 81, 'TCP'), ('alt', 80, 'TCP'), ('dns', 81, 'UDP')),
    'c': (('http', 80, 'TCP'), ('alt', 81, 'TCP'), ('http', 81, 'UDP')),
}


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Probe:
    """One question: does an answer come?

    :ivar source: who asks, such as ``x/a``, ``node-a``, ``out-1``.
    :ivar protocol: tcp, udp, sctp or icmp.
    :ivar port: of the destination; None for icmp, which is an echo request.
    :ivar version: 4 or 6, of IP.
    """

    source: str
    destination: str
    protocol: str
    port: int | None
    version: int

    def __str__(self):
        what = self.protocol + ('/%d' % self.port if self.port else '')
        return '%s -> %s %s v%d' % (self.source, self.destination, what,
                                    self.version)


def pods() -> tuple[str, ...]:
    return tuple('%s/%s' % (namespace, pod)
                 for namespace in NAMESPACES for pod in PODS)


def node_of(pod: str, nodes: tuple[str, str]) -> str:
    """On which of the nodes a pod is put."""
    namespace, name = pod.split('/')
    return nodes[(NAMESPACES.index(namespace) + PODS.index(name)) % 2]


def everyone(nodes: tuple[str, str]) -> tuple[str, ...]:
    return (*pods(), *nodes, *OUTSIDE)


def probes(nodes: tuple[str, str],
           whats: tuple[tuple[str, int | None], ...] = WHATS
           ) -> Iterator[Probe]:
    """Every probe; policy is about those that have a pod at an end."""
    for source in everyone(nodes):
        for destination in everyone(nodes):
            if '/' in source or '/' in destination:
                for protocol, port in whats:
                    for version in VERSIONS:
                        yield Probe(source, destination, protocol, port,
                                    version)


def own_labels(kind: str, name: str) -> dict[str, str]:
    """The labels that a pod or namespace was made with."""
    if kind == 'Namespace':
        return NAMESPACE_LABELS[name]
    return POD_LABELS[name.partition('/')[2]]


def manifest(name: str, node: str) -> dict:
    """A pod of the cast: a container for each number of port."""
    namespace, pod = name.split('/')
    obj = e2e_pods.manifest(pod, POD_LABELS[pod], node)
    obj['metadata']['namespace'] = namespace
    main, = obj['spec']['containers']
    obj['spec']['containers'] = [{
        **main, 'name': 'port-%d' % port,
        'args': ['netexec', '--http-port=%d' % port, '--udp-port=%d' % port],
        'ports': [{'name': called, 'containerPort': number,
                   'protocol': protocol}
                  for called, number, protocol in NAMED_PORTS[pod]
                  if number == port],
        'readinessProbe': {'tcpSocket': {'port': port}, 'periodSeconds': 1,
                           'timeoutSeconds': 2},
    } for port in PORTS]
    return obj
