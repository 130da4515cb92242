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

"""Services of the API, with the backends of their EndpointSlices; pure.

The order in which objects come does not matter. Not safe for threads.
Sources: Kubernetes API reference, ``Service`` (v1), ``EndpointSlice``
(discovery.k8s.io/v1).
"""

import collections
import ipaddress
from typing import Any, Callable, Iterator, Mapping, Optional

from kuryr_cilium.lb import model
from kuryr_cilium.policy import fields
from kuryr_cilium.policy import networks

#: The label of an EndpointSlice that says of which service it is.
SERVICE_NAME = 'kubernetes.io/service-name'
#: The label of a service that another proxy than the cluster's serves.
PROXY_NAME = 'service.kubernetes.io/service-proxy-name'

PROTOCOLS = {'TCP': 6, 'UDP': 17, 'SCTP': 132}
SCTP = 132

#: Seconds of ``sessionAffinityConfig.clientIP`` if it says nothing.
AFFINITY = 10800

_RANGE = 'spec.loadBalancerSourceRanges[%d]'
_SCTP = ('spec.ports: %s %d is SCTP, whose ports can not be rewritten: use '
         'the same number for %s and targetPort')


class Services:
    """Services by their id, ``namespace/name``.

    :param pod: callable that returns (MAC address, Neutron network) of a
        pod by an address of it, None if there is none.
    """

    def __init__(self, pod: Callable[[str], Optional[tuple[str, str]]]
                 = lambda address: None):
        self._pod = pod
        # UID -> object. A service may be made anew before the deletion of
        # the old one is seen.
        self._objects: dict[str, Mapping[str, Any]] = {}
        self._uids: dict[str, set[str]] = collections.defaultdict(set)
        self._slices: dict[str, Mapping[str, Any]] = {}
        self._of: dict[str, set[str]] = collections.defaultdict(set)
        self._services: dict[str, model.Service] = {}
        self._problems: dict[str, str] = {}
        # Address of a backend -> services that have it.
        self._backed: dict[str, set[str]] = collections.defaultdict(set)

    @property
    def services(self) -> Mapping[str, model.Service]:
        """Those that have an address."""
        return self._services

    def problems(self) -> Mapping[str, str]:
        """What can't be served: UID of a service -> why."""
        return self._problems

    def set_service(self, obj: Mapping[str, Any]) -> frozenset[str]:
        """A service was added or modified.

        :returns: ids of the services that are different.
        """
        uid, name = obj['metadata']['uid'], _id(obj['metadata'])
        self._objects[uid] = obj
        self._uids[name].add(uid)
        return self._settle(name)

    def delete_service(self, uid: str) -> frozenset[str]:
        """A service is gone. Idempotent."""
        obj = self._objects.pop(uid, None)
        self._problems.pop(uid, None)
        if obj is None:
            return frozenset()
        name = _id(obj['metadata'])
        self._uids[name].discard(uid)
        if not self._uids[name]:
            del self._uids[name]
        return self._settle(name)

    def set_slice(self, obj: Mapping[str, Any]) -> frozenset[str]:
        """An EndpointSlice was added or modified."""
        uid = obj['metadata']['uid']
        before = self._unlist(uid)
        name = _service_of(obj)
        if name is not None:
            self._slices[uid] = obj
            self._of[name].add(uid)
        return frozenset().union(*map(self._settle, {before, name} - {None}))

    def delete_slice(self, uid: str) -> frozenset[str]:
        """An EndpointSlice is gone. Idempotent."""
        before = self._unlist(uid)
        return self._settle(before) if before else frozenset()

    def pod_changed(self, address: str) -> frozenset[str]:
        """An address may have another pod, or its pod another port.

        :returns: as set_service().
        """
        facts = self._facts(address)
        stale = [name for name in self._backed.get(address, ())
                 if any(backend.address == address and
                        (backend.mac, backend.network_id) != facts
                        for port in self._services[name].ports
                        for backend in port.backends)]
        return frozenset().union(*map(self._settle, stale))

    def _facts(self, address):
        return self._pod(address) or ('', '')

    def _unlist(self, uid):
        obj = self._slices.pop(uid, None)
        if obj is None:
            return None
        name = _service_of(obj)
        self._of[name].discard(uid)
        if not self._of[name]:
            del self._of[name]
        return name

    def _settle(self, name):
        before = self._services.get(name)
        uids = self._uids.get(name, ())
        for uid in uids:
            self._problems.pop(uid, None)
        uid = max(uids, key=lambda uid: (
            self._objects[uid]['metadata'].get('creationTimestamp') or '',
            uid), default=None)
        now = None if uid is None else self._service(uid, name)
        if now == before:
            return frozenset()
        if now is None:
            del self._services[name]
        else:
            self._services[name] = now
        self._list_backends(name, before, now)
        return frozenset((name,))

    def _list_backends(self, name, before, now):
        before, now = map(_backends_of, (before, now))
        for address in before - now:
            self._backed[address].discard(name)
            if not self._backed[address]:
                del self._backed[address]
        for address in now - before:
            self._backed[address].add(name)

    def _service(self, uid, name):
        obj = self._objects[uid]
        spec = obj.get('spec') or {}
        addresses = _addresses(spec.get('clusterIPs') or
                               [spec.get('clusterIP')])
        if (not addresses or spec.get('type') == 'ExternalName'
                or PROXY_NAME in (obj['metadata'].get('labels') or {})):
            return None
        affinity = 0
        if spec.get('sessionAffinity') == 'ClientIP':
            config = (spec.get('sessionAffinityConfig') or {}).get(
                'clientIP') or {}
            affinity = config.get('timeoutSeconds') or AFFINITY
        local = (spec.get('externalTrafficPolicy') == 'Local' and (
            spec.get('type') in ('NodePort', 'LoadBalancer')
            or bool(spec.get('externalIPs'))))
        status = (obj.get('status') or {}).get('loadBalancer') or {}
        balancers = [item.get('ip') for item in status.get('ingress') or ()
                     if item.get('ipMode') != 'Proxy']
        ports = [self._port(uid, name, item)
                 for item in spec.get('ports') or ()]
        return model.Service(
            namespace=obj['metadata']['namespace'],
            name=obj['metadata']['name'],
            created=obj['metadata'].get('creationTimestamp') or '',
            addresses=addresses,
            external=_addresses([*(spec.get('externalIPs') or ()),
                                 *balancers]),
            ports=tuple(sorted(ports)), affinity=affinity,
            internal_local=spec.get('internalTrafficPolicy') == 'Local',
            external_local=local, source_ranges=self._ranges(uid, spec),
            health_port=(spec.get('healthCheckNodePort') or 0)
            if local and spec.get('type') == 'LoadBalancer' else 0)

    def _ranges(self, uid, spec):
        texts = spec.get('loadBalancerSourceRanges') or ()
        found = set()
        for number, text in enumerate(texts):
            try:
                # The API server lets spaces around it pass.
                found.add(str(networks.network(
                    str(text).strip(), _RANGE % number)))
            except fields.Problem as problem:
                self._problems[uid] = '; '.join(filter(None, (
                    self._problems.get(uid),
                    '%s; it lets nobody in' % problem)))
        return tuple(sorted(found)) if texts else None

    def _port(self, uid, name, item):
        protocol = PROTOCOLS.get(item.get('protocol') or 'TCP')
        node_port = item.get('nodePort') or 0
        # An endpoint may be in several slices while it moves between them.
        unique: dict[tuple[str, int], model.Backend] = {}
        for backend in sorted(
                self._backends(name, item.get('name') or '', protocol),
                key=lambda backend: (backend.draining, backend)):
            unique.setdefault((backend.address, backend.port), backend)
        if protocol == SCTP:
            numbers = {port for _, port in unique}
            if node_port and numbers - {node_port}:
                self._problems[uid] = _SCTP % ('nodePort', node_port,
                                               'nodePort')
                node_port = 0
            if numbers - {item['port']}:
                self._problems[uid] = _SCTP % ('port', item['port'], 'port')
                unique = {}
        return model.Port(item.get('name') or '', protocol, item['port'],
                          node_port, tuple(sorted(unique.values())))

    def _backends(self, name, port_name, protocol) -> Iterator[model.Backend]:
        for uid in self._of.get(name, ()):
            obj = self._slices[uid]
            for port in obj.get('ports') or ():
                if (port.get('port') is None
                        or (port.get('name') or '') != port_name
                        or PROTOCOLS.get(port.get('protocol') or 'TCP')
                        != protocol):
                    continue
                for endpoint in obj.get('endpoints') or ():
                    yield from self._backend(endpoint, port['port'])

    def _backend(self, endpoint, port):
        conditions = endpoint.get('conditions') or {}
        ready = conditions.get('ready') is not False
        serving = conditions.get('serving') is not False
        if not ready and not (serving and conditions.get('terminating')):
            return
        # All the addresses of an endpoint are the same one's: the first.
        for address in _addresses((endpoint.get('addresses') or ())[:1]):
            hints = endpoint.get('hints') or {}
            mac, network = self._facts(address)
            yield model.Backend(
                address, port, endpoint.get('nodeName') or '', not ready,
                _names(hints.get('forZones')), _names(hints.get('forNodes')),
                mac, network)


def _id(metadata):
    return '%s/%s' % (metadata['namespace'], metadata['name'])


def _service_of(obj):
    """Id of the service whose EndpointSlice it is, None if of none."""
    name = (obj['metadata'].get('labels') or {}).get(SERVICE_NAME)
    if not name or obj.get('addressType') not in ('IPv4', 'IPv6'):
        return None
    return '%s/%s' % (obj['metadata']['namespace'], name)


def _backends_of(service):
    """Addresses of a service's backends."""
    return {backend.address for port in (service.ports if service else ())
            for backend in port.backends}


def _names(items):
    return tuple(sorted(item['name'] for item in items or ()))


def _addresses(texts):
    """Canonical addresses, in their order; what is none is left out."""
    found = {}
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            # 'None', the cluster address of a headless service.
            continue
        # To the kernel ::ffff:10.0.0.1 is the same as 10.0.0.1.
        address = getattr(address, 'ipv4_mapped', None) or address
        # Here it would stand for every node's.
        if not address.is_unspecified:
            found[str(address)] = None
    return tuple(found)
