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

"""What policies mean, written slowly and from the specifications.

It works on API objects as the API server gives them and shares nothing with
the parsers, the world and the compiler beside it: each is the other's proof.
A :class:`~kuryr_cilium.policy.oracle.cluster.Cluster` holds the objects and
judges; the kinds of policies have a module each, which reads an object into
statements.

Sources: Kubernetes documentation, "Network Policies" and the API reference of
``networking.k8s.io/v1``; network-policy-api, ``ClusterNetworkPolicy`` of
``policy.networking.k8s.io/v1alpha2``; Cilium documentation, "Network Policy".
Where they leave something open, doc/source/contributor/decisions.rst.
"""

from kuryr_cilium.policy.oracle import cluster
from kuryr_cilium.policy.oracle import statements

Cluster = cluster.Cluster
Decision = cluster.Decision
KINDS = cluster.KINDS
Options = statements.Options
Path = cluster.Path
Peer = statements.Peer
