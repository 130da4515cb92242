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

"""Ports of pods: one for each, found again by the pod's UID."""

import dataclasses

from os_vif.objects import vif as osv_vif
from oslo_log import log as logging

from kuryr_cilium import exceptions
from kuryr_cilium.neutron import networks
from kuryr_cilium.neutron import vifs

LOG = logging.getLogger(__name__)

DEVICE_OWNER = 'compute:kuryr'
TAG = 'kuryr-cilium'

_LIST_FIELDS = ('id', 'name', 'device_id', 'binding:host_id', 'status',
                'tags', 'description', 'created_at')


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """A port of ours as a list shows it.

    :ivar pod_uid: UID of the pod it was created for.
    :ivar name: namespace/name of that pod.
    :ivar host: name of the node it is bound to, '' if to none.
    :ivar status: Neutron's status, as ACTIVE or DOWN.
    :ivar created_at: ISO 8601, UTC; '' if Neutron doesn't tell.
    """

    id: str
    pod_uid: str
    name: str
    host: str
    status: str
    created_at: str


class PortManager:
    """Creates and deletes the ports of one cluster's pods."""

    def __init__(self, conf, client, cluster_name: str):
        self._client = client
        self._conf = conf
        self._networks = networks.Networks(conf, client)
        self._mark = '%s:cluster=%s' % (TAG, cluster_name)
        self._tags = sorted((TAG, self._mark))

    def create(self, namespace: str, name: str, uid: str,
               host: str) -> osv_vif.VIFOpenVSwitch:
        """The VIF of a pod, on a port that is bound to its node.

        A port that an earlier attempt has made for the same UID is used
        again, so this may be repeated until it succeeds.

        :raises: exceptions.BindingFailed, QuotaExceeded,
            AddressesExhausted, PortNotSupported, PodNetworkInvalid and
            NeutronError; each says what to do.
        """
        pod = '%s/%s' % (namespace, name)
        port = self._client.retrying(
            lambda: self._find(uid) or self._post(pod, uid, host))
        if sorted(port['tags']) != self._tags:
            self._client.put('/ports/%s/tags' % port['id'],
                             {'tags': self._tags})
        if (port['binding:host_id'] != host or
                port['binding:vif_type'] in ('unbound', 'binding_failed')):
            port = self._bind(port, host)
        if port['binding:vif_type'] == 'binding_failed':
            raise exceptions.BindingFailed(
                port=port['id'], pod=pod, host=host,
                network=port['network_id'])
        network = self._networks.get(
            fixed_ip['subnet_id'] for fixed_ip in port['fixed_ips'])
        LOG.info('Port %s for pod %s on %s', port['id'], pod, host)
        return vifs.make(port, network.network, network.subnets)

    def delete(self, vif_id: str) -> None:
        """Delete a port; one that is gone already is fine."""
        self._client.delete('/ports/%s' % vif_id)

    def list(self) -> list[Port]:
        """Every port of this cluster's pods.

        The description tells them from others' as well as the tags do: it
        is there from the first, tags are set by a second request.
        """
        ports = self._client.list('ports', device_owner=DEVICE_OWNER,
                                  fields=_LIST_FIELDS)
        return [Port(port['id'], port['device_id'], port['name'],
                     port['binding:host_id'] or '', port['status'],
                     port.get('created_at') or '')
                for port in ports if self._mark in port['tags'] or
                port['description'] == self._mark]

    def _find(self, uid):
        """The port of a pod, if it has been created."""
        found = [port for port in self._client.list(
            'ports', device_id=uid, device_owner=DEVICE_OWNER)
            if port['description'] == self._mark or
            self._mark in port['tags']]
        # NOTE: two can be there if the answer to the first request was lost.
        found.sort(key=lambda port: (port.get('created_at') or '',
                                     port['id']))
        for extra in found[1:]:
            self.delete(extra['id'])
        return found[0] if found else None

    def _post(self, pod, uid, host):
        network = self._networks.get()
        port = {
            'network_id': network.network['id'], 'name': pod,
            'description': self._mark, 'admin_state_up': True,
            'device_owner': DEVICE_OWNER, 'device_id': uid,
            'binding:host_id': host}
        if self._conf.neutron.pod_security_groups:
            port['security_groups'] = self._conf.neutron.pod_security_groups
        for fixed_ips, last in _attempts(network.chosen):
            if fixed_ips:
                port['fixed_ips'] = fixed_ips
            try:
                return self._client.post('/ports', {'port': port})['port']
            except exceptions.NeutronConflict as error:
                if error.kwargs['type'] == 'OverQuota':
                    raise exceptions.QuotaExceeded(
                        pod=pod, reason=error.kwargs['reason']) from error
                if error.kwargs['type'] != 'IpAddressGenerationFailure':
                    raise
                if last:
                    raise exceptions.AddressesExhausted(
                        pod=pod, reason=error.kwargs['reason']) from error

    def _bind(self, port, host):
        """Bind a port; Neutron tries a failed binding again, too."""
        return self._client.put('/ports/%s' % port['id'], {
            'port': {'binding:host_id': host}})['port']


def _attempts(chosen):
    """What to ask for: (fixed_ips, whether it is the last thing to try).

    :param chosen: lists of subnets, one for each IP version; those of a
        version are alternatives.
    """
    count = max(map(len, chosen), default=1)
    for attempt in range(count):
        yield ([{'subnet_id': alternatives[attempt % len(alternatives)]}
                for alternatives in chosen], attempt == count - 1)
