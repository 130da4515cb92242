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

"""What the controller knows of each pod, to give ports to it."""

import dataclasses
import threading
from typing import Any, Mapping, Optional

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import reflector
from kuryr_cilium import vif

_FINISHED = ('Succeeded', 'Failed')


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    :ivar host: name of the node, None as long as it is not scheduled.
    :ivar terminal: its containers have ended for good (Succeeded, Failed).
    :ivar deleting: it is to be deleted, its containers may still run.
    :ivar annotated: it has a VIF annotation, whatever is in it.
    :ivar vif_id: id of the Neutron port in the annotation, if it has one
        that can be read.
    """

    uid: str
    namespace: str
    name: str
    host: Optional[str]
    host_network: bool
    terminal: bool
    deleting: bool
    annotated: bool
    vif_id: Optional[str]

    @property
    def needs_port(self) -> bool:
        """Whether a port has to be found or made for it."""
        return bool(self.host) and not (
            self.host_network or self.terminal or self.deleting
            or self.annotated)

    @property
    def keeps_port(self) -> bool:
        """Whether the containers may still use a port."""
        return not self.terminal and not self.host_network

    def __str__(self):
        return '%s/%s' % (self.namespace, self.name)


def read(obj: Mapping[str, Any]) -> Pod:
    """Read a pod as the API has it."""
    meta, spec = obj['metadata'], obj.get('spec') or {}
    annotation = (meta.get('annotations') or {}).get(vif.ANNOTATION)
    return Pod(
        uid=meta['uid'], namespace=meta['namespace'], name=meta['name'],
        host=spec.get('nodeName') or None,
        host_network=bool(spec.get('hostNetwork')),
        terminal=(obj.get('status') or {}).get('phase') in _FINISHED,
        deleting=bool(meta.get('deletionTimestamp')),
        annotated=annotation is not None, vif_id=_vif_id(annotation))


def _vif_id(annotation):
    if annotation is None:
        return None
    try:
        return vif.facts(annotation).vif_id
    except exceptions.InvalidVIF:
        # Whoever wrote it, it is not ours to overwrite. The agent of the
        # node refuses it, and policy says so in an Event.
        return None


class PodTable:
    """Every pod of the cluster by UID. Safe for threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}

    def update(self, change: str, obj: Mapping[str, Any]) -> Optional[str]:
        """Note a change that a reflector has delivered.

        :returns: the pod's UID, None if nothing that matters has changed.
        """
        uid = obj['metadata']['uid']
        if change == reflector.DELETED:
            with self._lock:
                return uid if self._pods.pop(uid, None) else None
        pod = read(obj)
        with self._lock:
            if self._pods.get(uid) == pod:
                return None
            self._pods[uid] = pod
            return uid

    def get(self, uid: str) -> Optional[Pod]:
        """The pod of a UID, None if it does not exist (any more)."""
        with self._lock:
            return self._pods.get(uid)

    def all(self) -> list[Pod]:
        """All pods."""
        with self._lock:
            return list(self._pods.values())
