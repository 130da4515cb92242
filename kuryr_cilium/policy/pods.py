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

"""What policy needs of a pod or node object of the API."""

import dataclasses
import ipaddress
from typing import Any, Mapping, Optional

from kuryr_cilium import exceptions
from kuryr_cilium.policy import fields
from kuryr_cilium.policy import model
from kuryr_cilium.policy import normal
from kuryr_cilium import vif

#: A label that each pod gets from its service account, so that selectors
#: can name it. Source: Cilium documentation, "Service Accounts Based".
SERVICE_ACCOUNT = 'io.cilium.k8s.policy.serviceaccount'

#: In these phases the containers have ended for good: the address may be
#: reused, so the pod is no peer any more.
_FINISHED = ('Succeeded', 'Failed')


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """A pod that policy applies to.

    :ivar labels: sorted pairs, with the pod's service account among them.
    :ivar ports: its named ports; the numbers of each.
    :ivar facts: its VIF; None as long as it has none that can be read.
    :ivar rank: of two pods that claim one address, the greater has it: one
        that is not being deleted, then the later one.
    """

    uid: str
    namespace: str
    name: str
    host: Optional[str]
    labels: tuple[tuple[str, str], ...]
    annotation: Optional[str]
    facts: Optional[vif.Facts]
    problem: Optional[fields.Problem]
    rank: tuple
    ports: Mapping[normal.NamedPort, frozenset[int]]

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.facts.addresses if self.facts else ()


def read(obj: Mapping[str, Any], before: Optional[Pod] = None
         ) -> Optional[Pod]:
    """Read a pod.

    :param before: what was read of it the last time, to save work.
    :returns: None if policy does not apply to it: a pod in the host's
        network is node traffic, a finished one has no traffic.
    """
    metadata, spec = obj['metadata'], obj.get('spec') or {}
    phase = (obj.get('status') or {}).get('phase')
    if spec.get('hostNetwork') or phase in _FINISHED:
        return None
    annotation = (metadata.get('annotations') or {}).get(vif.ANNOTATION)
    if before is not None and before.annotation == annotation:
        facts, problem = before.facts, before.problem
    else:
        facts, problem = _facts(annotation)
    return Pod(
        uid=metadata['uid'], namespace=metadata['namespace'],
        name=metadata['name'], host=spec.get('nodeName') or None,
        labels=_labels(metadata.get('labels') or {}, spec),
        annotation=annotation, facts=facts, problem=problem,
        rank=(not metadata.get('deletionTimestamp'),
              metadata.get('creationTimestamp') or '', metadata['uid']),
        ports=_ports(spec))


def node_addresses(obj: Mapping[str, Any]) -> tuple[str, ...]:
    """Canonical addresses of a node object."""
    found = []
    for item in (obj.get('status') or {}).get('addresses') or ():
        try:
            found.append(str(ipaddress.ip_address(item.get('address'))))
        except ValueError:
            # A name: of the types Hostname, InternalDNS, ExternalDNS.
            continue
    return tuple(sorted(set(found)))


def slice_addresses(obj: Mapping[str, Any]) -> frozenset[str]:
    """Canonical addresses of an EndpointSlice, ready or not."""
    found = set()
    for endpoint in obj.get('endpoints') or ():
        for address in endpoint.get('addresses') or ():
            try:
                found.add(str(ipaddress.ip_address(address)))
            except ValueError:
                # A name: of the type FQDN.
                continue
    return frozenset(found)


def _labels(labels, spec):
    # NOTE: what a pod's author writes under this key is not heeded.
    account = spec.get('serviceAccountName')
    if account or SERVICE_ACCOUNT in labels:
        labels = {key: value for key, value in labels.items()
                  if key != SERVICE_ACCOUNT}
        if account:
            labels[SERVICE_ACCOUNT] = account
    return tuple(sorted(labels.items()))


def _ports(spec):
    """Named ports of the containers that run as long as the pod does.

    Source: Kubernetes documentation, "Sidecar Containers": an init
    container with restartPolicy Always keeps running.
    """
    found: dict[normal.NamedPort, set[int]] = {}
    for container in (
            *(spec.get('containers') or ()),
            *(container for container in spec.get('initContainers') or ()
              if container.get('restartPolicy') == 'Always')):
        for port in container.get('ports') or ():
            protocol = model.PROTOCOLS.get(port.get('protocol') or 'TCP')
            number = port.get('containerPort')
            if port.get('name') and protocol and isinstance(number, int):
                found.setdefault(normal.NamedPort(protocol, port['name']),
                                 set()).add(number)
    return {port: frozenset(numbers) for port, numbers in found.items()}


def _facts(annotation):
    if annotation is None:
        return None, None
    try:
        return vif.facts(annotation), None
    except exceptions.InvalidVIF as error:
        return None, fields.Problem(
            'metadata.annotations[%s]' % vif.ANNOTATION, str(error))
