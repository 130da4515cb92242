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

"""All that commands know of a node at one moment: agent, API server, oracle.

What the API server says is asked only by commands that need it, and only
once; what can't be asked is left out, with the reason.
"""

import functools
import ipaddress
from typing import Any, Callable, Iterable, Mapping, Optional

from kuryr_cilium.cli import client
from kuryr_cilium.cli import cluster as cluster_
from kuryr_cilium.cli import compiled as compiled_
from kuryr_cilium.cli import expected
from kuryr_cilium import exceptions
from kuryr_cilium.policy import kinds


class Node:
    """A node as it is now.

    :param read: callable that returns what the API server says, or raises
        why it can't be asked.
    :param own: callable that returns the addresses of this host.
    :param options: what the operator chose of the meaning of policies.
    """

    def __init__(self, agent: client.AgentClient,
                 read: Callable[[], cluster_.Cluster],
                 own: Callable[[], Iterable[str]], options: kinds.Options):
        self._agent = agent
        self._read = read
        self._own = own
        self._options = options

    @functools.cached_property
    def host(self) -> str:
        """The node's name."""
        return self._agent.get('/v1/status')['host']

    @functools.cached_property
    def endpoints(self) -> list[Mapping[str, Any]]:
        """What is plugged."""
        return self._agent.get('/v1/endpoints')

    @functools.cached_property
    def described(self) -> list[Mapping[str, Any]]:
        """The rulesets of the view, in words."""
        return self._agent.get('/v1/policies')

    def entries(self, ruleset: Optional[str]) -> Mapping[str, int]:
        """How many entries a ruleset has in the maps; none: not loaded.

        :param ruleset: its id; "allow all" and "deny all" need none.
        """
        return self._loaded.get(ruleset, {})

    @functools.cached_property
    def _loaded(self):
        return {found['ruleset_id']: {'groups': found['groups'],
                                      'port_prefixes': found['ports'],
                                      'peer_rows': found['peers']}
                for found in self._agent.get('/v1/rulesets')
                if found['ruleset_id']}

    @functools.cached_property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of this host that others know too."""
        return tuple(sorted(
            str(address) for address in map(ipaddress.ip_address, self._own())
            if not (address.is_loopback or address.is_link_local)))

    @property
    def cluster(self) -> Optional[cluster_.Cluster]:
        """What the API server says; None if it can't be asked."""
        return self._asked[0]

    @property
    def not_asked(self) -> str:
        """Why the API server can't be asked, '' if it was."""
        return self._asked[1]

    @functools.cached_property
    def compiled(self) -> Optional[compiled_.Compiled]:
        """What the controller compiles of it."""
        if self.cluster is None:
            return None
        return compiled_.Compiled(self.cluster, self._options)

    @functools.cached_property
    def oracle(self) -> Optional[Callable]:
        """What the oracle says of it."""
        if self.cluster is None:
            return None
        return expected.Expected(self.cluster, self._options).judge

    @functools.cached_property
    def _asked(self):
        try:
            return self._read(), ''
        except (exceptions.KubernetesForbidden,
                exceptions.KubernetesUnauthorized) as error:
            why = '%(method)s %(path)s: %(status)s %(reason)s' % error.kwargs
        except (exceptions.KubernetesError,
                exceptions.KubernetesAccessInvalid) as error:
            why = str(error).rstrip('.')
        return None, why + ('. Give --kubeconfig (or KUBECONFIG) of somebody '
                            'who may list pods and policies')
