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

"""What NetworkPolicy means, written slowly and from the specification.

It shares no code with kuryr_cilium.policy and works on API objects. Source:
Kubernetes documentation, "Network Policies", and the API reference of
``networking.k8s.io/v1``.
"""

NUMBERS = {'TCP': 6, 'UDP': 17, 'SCTP': 132}


class Cluster:
    """API objects.

    A peer is a pod object, or None outside the cluster.
    """

    def __init__(self, namespaces, policies):
        self.namespaces = {namespace['metadata']['name']: namespace
                           for namespace in namespaces}
        self.policies = policies

    def allowed(self, source, destination, protocol, port):
        """May source open a connection to destination?

        :param protocol: IANA number.
        :param port: destination port; None if the protocol has none.
        """
        return (self._passes(source, destination, 'Egress', protocol, port)
                and self._passes(destination, source, 'Ingress', protocol,
                                 port))

    def _passes(self, subject, peer, direction, protocol, port):
        if not applies_to(subject):
            return True
        selecting = [policy for policy in self.policies
                     if self._selects(policy, subject)
                     and direction in types(policy['spec'])]
        if not selecting:
            return True
        for policy in selecting:
            rules = policy['spec'].get(direction.lower())
            for rule in rules or []:
                peers = rule.get('from' if direction == 'Ingress' else 'to')
                if (self._peer_in(peers, policy, peer)
                        and port_in(rule.get('ports'), protocol, port)):
                    return True
        return False

    def _selects(self, policy, pod):
        return (policy['metadata']['namespace'] ==
                pod['metadata']['namespace'] and
                selected(policy['spec'].get('podSelector'), pod))

    def _peer_in(self, peers, policy, peer):
        if not peers:
            return True
        if not applies_to(peer):
            return False
        for item in peers:
            if not selected(item.get('podSelector'), peer):
                continue
            namespace = peer['metadata']['namespace']
            if item.get('namespaceSelector') is None:
                if namespace == policy['metadata']['namespace']:
                    return True
            elif namespace in self.namespaces:
                if selected(item['namespaceSelector'],
                            self.namespaces[namespace]):
                    return True
        return False


def applies_to(pod):
    """Is it a pod, with an address of its own, that may send?"""
    return (pod is not None and not pod['spec'].get('hostNetwork') and
            pod.get('status', {}).get('phase') not in ('Succeeded', 'Failed'))


def types(spec):
    """The directions in which a policy isolates."""
    if spec.get('policyTypes'):
        return spec['policyTypes']
    return ['Ingress'] + (['Egress'] if spec.get('egress') else [])


def port_in(ports, protocol, port):
    """Is a destination port one of a rule's ports?"""
    if not ports:
        return True
    for item in ports:
        if NUMBERS[item.get('protocol') or 'TCP'] != protocol:
            continue
        if item.get('port') is None:
            return True
        if port is not None and item['port'] <= port <= item.get(
                'endPort', item['port']):
            return True
    return False


def selected(selector, obj):
    """Does an object have the labels that a selector asks for?"""
    labels = obj['metadata'].get('labels') or {}
    selector = selector or {}
    for key, value in (selector.get('matchLabels') or {}).items():
        if key not in labels or labels[key] != value:
            return False
    for item in selector.get('matchExpressions') or []:
        key, operator = item['key'], item['operator']
        if operator == 'In' and not (
                key in labels and labels[key] in item['values']):
            return False
        if operator == 'NotIn' and (
                key in labels and labels[key] in item['values']):
            return False
        if operator == 'Exists' and key not in labels:
            return False
        if operator == 'DoesNotExist' and key in labels:
            return False
    return True
