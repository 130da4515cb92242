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

"""Label selectors of Cilium's kinds of policy.

Keys may say where a label comes from (``k8s:``, ``any:``, ``reserved:``),
and some keys mean the pod's namespace. Source: Cilium documentation,
"Endpoints based" and "Using Kubernetes Constructs In Policy".
"""

from typing import Optional

from kuryr_cilium.policy import fields
from kuryr_cilium.policy import labels
from kuryr_cilium.policy import selectors

#: Its value is the name of the pod's namespace.
NAMESPACE = 'io.kubernetes.pod.namespace'
#: Before the key of a label of the pod's namespace.
NAMESPACE_LABELS = 'io.cilium.k8s.namespace.labels.'
#: Its value is the pod's service account; the world gives it to each pod.
SERVICE_ACCOUNT = 'io.cilium.k8s.policy.serviceaccount'
_CLUSTER = 'io.cilium.k8s.policy.cluster'

_ANY, _RESERVED = 'any', 'reserved'


def plain(value, path: str, sources: tuple[str, ...] = ('k8s',)
          ) -> labels.LabelSelector:
    """A selector of things that have labels of one source only.

    :param sources: what may stand before a key and says no more.
    :raises: fields.Problem
    """
    return _canonical(
        requirement for source, requirement in _split(value, path)
        if _known(source, sources, path))


def peer(value, path: str, namespace: Optional[str]
         ) -> tuple[Optional[str], Optional[selectors.Pods]]:
    """What a selector of endpoints means as a peer.

    :param namespace: of the policy; None of a cluster-wide one. Unless the
        selector says something of namespaces, this one is meant.
    :returns: the name of a reserved identity, or else pods.
    :raises: fields.Problem
    """
    found = _split(value, path)
    if any(source == _RESERVED for source, _requirement in found):
        (_source, requirement), *more = found
        if more or requirement.operator not in (
                labels.IN, labels.EXISTS) or any(requirement.values):
            raise fields.Problem(path, 'a label of reserved: stands alone '
                                 'and without a value: name the peers by '
                                 'entities')
        return requirement.key, None
    pods, namespaces, says = _parts(found, path)
    if namespace is not None and not says:
        return None, selectors.Pods(pods, namespace)
    return None, _pods(pods, namespaces)


def subject(value, path: str, namespace: Optional[str],
            problems: list[fields.Problem]) -> Optional[selectors.Pods]:
    """What a selector of endpoints means as the subject of a policy.

    :param namespace: of the policy, whose pods alone can be meant; None of a
        cluster-wide one.
    :returns: None if no pod can be meant.
    :raises: fields.Problem
    """
    found = []
    for source, requirement in _split(value, path):
        if source != _RESERVED:
            found.append((source, requirement))
        elif not requirement.matches({}):
            # Pods have no reserved labels.
            return None
    pods, namespaces, _says = _parts(found, path)
    if namespace is None:
        return _pods(pods, namespaces)
    own = {labels.NAMESPACE_NAME: namespace}
    if not labels.matches([requirement for requirement in namespaces
                           if requirement.key in own], own):
        problems.append(fields.Problem(
            path, 'selects another namespace, but the policy is about its '
            'own only: remove %s' % NAMESPACE))
    namespaces = tuple(requirement for requirement in namespaces
                       if requirement.key not in own)
    if not namespaces:
        return selectors.Pods(pods, namespace)
    return selectors.Pods(pods, None, _canonical((
        labels.Requirement(labels.NAMESPACE_NAME, labels.IN, (namespace,)),
        *namespaces)))


def _split(value, path):
    """(source, requirement without it) of a label selector."""
    result = []
    for requirement in labels.parse(value, path):
        source, colon, key = requirement.key.partition(':')
        if not colon:
            source, key = _ANY, requirement.key
        if not key or key.startswith('$'):
            raise fields.Problem(path, 'has a key without the name of a '
                                 'label: write it as SOURCE:KEY or KEY')
        result.append((source, labels.Requirement(
            key, requirement.operator, requirement.values)))
    return result


def _parts(found, path):
    """Requirements of pods and namespaces; whether any is of namespaces."""
    pods, namespaces, says = [], [], False
    for source, requirement in found:
        _known(source, ('k8s',), path)
        key = requirement.key
        if key == _CLUSTER:
            raise fields.Problem(path, 'clusters have no names here: remove '
                                 '%s' % _CLUSTER)
        if key == NAMESPACE:
            says = True
            # Every pod has a namespace.
            if requirement.operator != labels.EXISTS:
                namespaces.append(_renamed(requirement,
                                           labels.NAMESPACE_NAME))
        elif key.startswith(NAMESPACE_LABELS):
            says = True
            namespaces.append(_renamed(requirement,
                                       key.removeprefix(NAMESPACE_LABELS)))
        else:
            pods.append(requirement)
    return _canonical(pods), _canonical(namespaces), says


def _known(source, sources, path):
    if source != _ANY and source not in sources:
        raise fields.Problem(path, 'no label has the source %s: here; use '
                             '%s: or none' % (source[:64], sources[0]))
    return True


def _pods(pods, namespaces):
    """Pods, in the form in which other kinds name one namespace."""
    if len(namespaces) == 1:
        only, = namespaces
        if (only.key == labels.NAMESPACE_NAME and only.operator == labels.IN
                and len(only.values) == 1):
            return selectors.Pods(pods, only.values[0])
    return selectors.Pods(pods, None, namespaces)


def _renamed(requirement, key):
    return labels.Requirement(key, requirement.operator, requirement.values)


def _canonical(requirements):
    return tuple(sorted(set(requirements)))
