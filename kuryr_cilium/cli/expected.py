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

"""What the oracle says: the specifications read slowly, for comparison."""

import functools
from typing import Optional

from kuryr_cilium.cli import cluster as cluster_
from kuryr_cilium.cli import compiled
from kuryr_cilium.cli import places
from kuryr_cilium.cli import tracing
from kuryr_cilium.policy import kinds
from kuryr_cilium.policy import model
from kuryr_cilium.policy import oracle

#: The oracle's names of tiers; its others say that no rule decided.
_TIERS = {'Admin': model.Tier.ADMIN,
          'NetworkPolicy': model.Tier.NETWORK_POLICY,
          'Baseline': model.Tier.BASELINE}


class Expected:
    """The oracle of a cluster.

    :param options: what the operator chose of the meaning of policies.
    """

    def __init__(self, cluster: cluster_.Cluster, options: kinds.Options):
        self._objects = cluster
        self._options = options

    def judge(self, direction: model.Direction, subject: places.Place,
              peer: places.Place, address: str, packet: tracing.Packet
              ) -> Optional[compiled.Decision]:
        """As compiled.Compiled.judge.

        :returns: None if the API's objects can't tell: of a pod that they
            don't have, and of a node's address that its Node doesn't name.
        """
        pod = self._pods.get(subject.uid)
        if pod is None or (peer.kind == places.NODE and
                           self._oracle.peer(address).node is None):
            return None
        said = self._oracle.judge(pod, direction.value, address,
                                  packet.number, packet.key)
        tier = _TIERS.get(said.tier)
        name = '' if tier is None else tier.name.lower()
        if said.allowed:
            return compiled.Decision('allow', '', said.rules, name)
        return compiled.Decision(
            'deny' if said.rules else 'drop',
            'policy-deny' if said.rules else 'policy', said.rules, name)

    @functools.cached_property
    def _pods(self):
        return {obj['metadata']['uid']: obj for obj in self._objects.pods}

    @functools.cached_property
    def _oracle(self):
        objects = self._objects
        return oracle.Cluster(
            objects.pods, objects.namespaces, objects.nodes,
            objects.services, objects.slices, objects.policies,
            oracle.Options(self._options.exempt_namespaces,
                           self._options.own_node))
