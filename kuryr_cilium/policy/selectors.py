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

"""Selectors: what a rule can name as a peer, and a policy as its subject.

A selector is identified by the hash of its canonical definition: two
policies that name the same peers in other words share one selector, and its
members are sent once.
"""

import dataclasses
import functools
import hashlib
import json
from typing import Mapping, Optional

from kuryr_cilium.policy import labels


@dataclasses.dataclass(frozen=True, slots=True)
class Pods:
    """Pods by their labels and their namespace.

    Source: Kubernetes API reference, ``NetworkPolicyPeer``.

    :ivar pods: what the pods' labels must meet.
    :ivar namespace: the one namespace whose pods are meant, by name.
    :ivar namespaces: what the labels of the pods' namespace must meet, if
        no name is given.
    """

    pods: labels.LabelSelector = labels.EVERYTHING
    namespace: Optional[str] = None
    namespaces: labels.LabelSelector = labels.EVERYTHING

    @property
    def definition(self) -> str:
        """Canonical JSON."""
        return _definition(self)

    @property
    def id(self) -> str:
        """Hash of the definition."""
        return _id(self)

    def matches(self, namespace: str, namespace_labels: Mapping[str, str],
                pod_labels: Mapping[str, str]) -> bool:
        """True if a pod with these labels in this namespace is meant."""
        if self.namespace is not None:
            if namespace != self.namespace:
                return False
        elif not labels.matches(self.namespaces, namespace_labels):
            return False
        return labels.matches(self.pods, pod_labels)


@functools.lru_cache(maxsize=65536)
def _definition(selector):
    where = ({'namespace': selector.namespace}
             if selector.namespace is not None
             else {'namespaces': _plain(selector.namespaces)})
    return json.dumps({'pods': _plain(selector.pods), **where},
                      sort_keys=True, separators=(',', ':'))


@functools.lru_cache(maxsize=65536)
def _id(selector):
    return hashlib.sha256(_definition(selector).encode()).hexdigest()


def _plain(selector):
    return [[requirement.key, requirement.operator, list(requirement.values)]
            for requirement in selector]
