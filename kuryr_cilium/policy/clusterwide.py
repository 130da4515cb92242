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

"""Whom a cluster-wide policy that can't be expressed leaves out.

It must not take the cluster's own services down with it: the namespaces
that the operator exempts keep what they had.
"""

from typing import Iterable, Optional

from kuryr_cilium.policy import labels
from kuryr_cilium.policy import selectors


def without(subject: Optional[selectors.Pods],
            namespaces: Iterable[str]) -> Optional[selectors.Pods]:
    """A subject without the pods of some namespaces.

    :returns: None if nothing is left.
    """
    names = tuple(sorted(set(namespaces)))
    if subject is None or not names:
        return subject
    if subject.namespace is not None:
        return None if subject.namespace in names else subject
    exempt = labels.Requirement(labels.NAMESPACE_NAME, labels.NOT_IN, names)
    return selectors.Pods(subject.pods, None, tuple(sorted(
        {*subject.namespaces, exempt})))
