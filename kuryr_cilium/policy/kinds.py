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

"""The kinds of policy that are understood, and how each is parsed."""

import dataclasses
from typing import Any, Callable, Mapping

from kuryr_cilium.policy import ciliumnetworkpolicy
from kuryr_cilium.policy import clusternetworkpolicy
from kuryr_cilium.policy import networkpolicy
from kuryr_cilium.policy import normal


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What an operator may choose of the meaning of policies.

    :ivar exempt_namespaces: namespaces whose pods a cluster-wide policy that
        can't be expressed does not isolate.
    :ivar own_node: whether pods whose egress is isolated may reach their own
        node.
    """

    exempt_namespaces: tuple[str, ...] = ('kube-system',)
    own_node: bool = False


#: kind -> its parser, which never raises for what stands in ``spec``. An
#: object that holds several policies becomes several.
PARSERS: Mapping[str, Callable[[Mapping[str, Any], Options],
                               tuple[normal.Policy, ...]]] = {
    networkpolicy.KIND: lambda obj, options: (networkpolicy.parse(obj),),
    clusternetworkpolicy.KIND: lambda obj, options: (
        clusternetworkpolicy.parse(obj, options.exempt_namespaces)),
    **{kind: lambda obj, options, kind=kind: ciliumnetworkpolicy.parse(
        kind, obj, options.exempt_namespaces)
       for kind in (ciliumnetworkpolicy.KIND,
                    ciliumnetworkpolicy.CLUSTERWIDE)},
}


def parse(kind: str, obj: Mapping[str, Any],
          options: Options = Options()) -> tuple[normal.Policy, ...]:
    """Parse an object as the API server gives it.

    :param kind: one of PARSERS; objects in lists don't say it themselves.
    """
    return PARSERS[kind](obj, options)
