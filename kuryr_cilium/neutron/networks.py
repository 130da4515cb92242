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

"""The pod network and its subnets, as Neutron knows them."""

import collections
import threading
import time
import typing

from oslo_log import log as logging

from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)


class PodNetwork(typing.NamedTuple):
    """A network with its subnets, as JSON of the API.

    :ivar network: the network.
    :ivar subnets: its subnets by id.
    :ivar chosen: lists of ids, one for each IP version, of the subnets that
        are configured; empty if Neutron shall choose.
    """

    network: dict
    subnets: dict
    chosen: tuple


class Networks:
    """Keeps the pod network, and reads it again now and then."""

    def __init__(self, conf, client, clock=time.monotonic):
        self._conf = conf
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._known = None
        self._until = 0

    def get(self, subnet_ids=()) -> PodNetwork:
        """The pod network, at most [neutron] network_refresh seconds old.

        :param subnet_ids: subnets that must be known: if one is not, all is
            read again.
        :raises: exceptions.PodNetworkInvalid, exceptions.NeutronError.
        """
        known = self._known
        if known is not None and set(subnet_ids) <= known.subnets.keys():
            if self._clock() < self._until:
                return known
            try:
                return self._read(known)
            except exceptions.NeutronUnavailable as error:
                LOG.warning('The pod network is not read again: %s', error)
                return known
        return self._read(known)

    def _read(self, before):
        with self._lock:
            if self._known is not before:
                return self._known
            network = self._network()
            subnets = {subnet['id']: subnet for subnet in self._client.list(
                'subnets', network_id=network['id'])}
            self._known = PodNetwork(network, subnets, self._chosen(subnets))
            self._until = self._clock() + self._conf.neutron.network_refresh
            return self._known

    def _network(self):
        wanted = self._conf.neutron.pod_network
        if not wanted:
            raise exceptions.PodNetworkInvalid(
                option='pod_network', reason='set the network of pods')
        found = (self._client.list('networks', id=wanted) or
                 self._client.list('networks', name=wanted))
        if len(found) != 1:
            raise exceptions.PodNetworkInvalid(
                option='pod_network',
                reason='%d networks are named %s, give the id of one' % (
                    len(found), wanted) if found else
                'there is no network %s that this user can see' % wanted)
        return found[0]

    def _chosen(self, subnets):
        versions = collections.defaultdict(list)
        for wanted in self._conf.neutron.pod_subnets:
            found = [subnet for subnet in subnets.values()
                     if wanted in (subnet['id'], subnet['name'])]
            if len(found) != 1:
                raise exceptions.PodNetworkInvalid(
                    option='pod_subnets',
                    reason='%d subnets of the pod network are %s' % (
                        len(found), wanted))
            versions[found[0]['ip_version']].append(found[0]['id'])
        return tuple(versions[version] for version in sorted(versions))
