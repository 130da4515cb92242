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

"""The pods of this node, as the API server tells of them."""

import dataclasses
import threading
import time
from typing import Optional

from kuryr_cilium import exceptions
from kuryr_cilium.k8s import reflector
from kuryr_cilium.k8s import resources
from kuryr_cilium import vif as kc_vif

#: Set by kubelet on the API's image of a static pod; for such a pod the
#: container runtime is given this hash as the UID.
CONFIG_HASH = 'kubernetes.io/config.hash'
#: Seconds after which a waiting ADD looks up whether it was given up.
_LOOK_UP = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """What an ADD needs of a pod.

    :ivar config_hash: of a static pod, else ''.
    :ivar annotation: the VIF's annotation, None as long as it has none.
    """

    uid: str
    namespace: str
    name: str
    config_hash: str
    annotation: Optional[str]


class Pods:
    """Follows the pods that are bound to this node. Safe for threads."""

    def __init__(self, client, host: str):
        self._host = host
        self._pods: dict[str, Pod] = {}
        self._changed = threading.Condition()
        self._reflector = reflector.Reflector(
            client, resources.PODS, self.handle,
            field_selector='spec.nodeName=' + host)

    def start(self) -> None:
        self._reflector.start()

    def stop(self) -> None:
        self._reflector.stop()

    def is_alive(self) -> bool:
        return self._reflector.alive()

    def check(self) -> Optional[str]:
        """None if the pods are known and followed, else why not."""
        return self._reflector.check()

    def wake(self) -> None:
        """Let those who wait look whether they were given up."""
        with self._changed:
            self._changed.notify_all()

    def handle(self, change: str, obj: dict) -> None:
        """What the reflector calls."""
        uid = obj['metadata']['uid']
        with self._changed:
            if change == reflector.DELETED:
                self._pods.pop(uid, None)
            else:
                self._pods[uid] = _pod(obj)
            self._changed.notify_all()

    def wait_annotation(self, namespace: str, name: str, uid: str,
                        deadline: float,
                        cancelled: threading.Event) -> Pod:
        """Wait until a pod has the annotation with its VIF.

        :param uid: the pod's UID or, of a static pod, its config hash; ''
            if the container runtime did not tell.
        :param deadline: time.monotonic() at which to give up.
        :raises: exceptions.AnnotationMissing with what to look at,
            exceptions.Abandoned once cancelled is set.
        """
        started = time.monotonic()
        with self._changed:
            while True:
                pod = self._find(namespace, name, uid)
                if pod is not None and pod.annotation is not None:
                    return pod
                if cancelled.is_set():
                    raise exceptions.Abandoned(what=f'{namespace}/{name}')
                left = deadline - time.monotonic()
                if left <= 0:
                    raise exceptions.AnnotationMissing(reason=self._missing(
                        namespace, name, uid, pod,
                        time.monotonic() - started))
                self._changed.wait(min(left, _LOOK_UP))

    def _find(self, namespace, name, uid):
        for pod in self._named(namespace, name):
            if not uid or uid in (pod.uid, pod.config_hash):
                return pod
        return None

    def _named(self, namespace, name):
        return [pod for pod in self._pods.values()
                if (pod.namespace, pod.name) == (namespace, name)]

    def _missing(self, namespace, name, uid, pod, seconds):
        trouble = self.check()
        if pod is not None:
            text = (f'No annotation {kc_vif.ANNOTATION} on pod {namespace}/'
                    f'{name} after {seconds:.0f} s: is '
                    'kuryr-cilium-controller running and one of its '
                    'replicas leader? "kubectl describe pod" shows its '
                    'events')
        elif other := self._named(namespace, name):
            text = (f'Pod {namespace}/{name} has UID {other[0].uid} in the '
                    f'API, the request is for {uid}: it was deleted and '
                    'made anew')
        else:
            text = (f'Pod {namespace}/{name} (UID {uid}) is not among the '
                    f'pods of node {self._host} in the API after '
                    f'{seconds:.0f} s: was it deleted, or is [agent] host '
                    'not the node\'s name ("kubectl get nodes")?')
        return f'{text} (The API server: {trouble})' if trouble else text


def _pod(obj):
    meta = obj['metadata']
    annotations = meta.get('annotations') or {}
    return Pod(meta['uid'], meta['namespace'], meta['name'],
               annotations.get(CONFIG_HASH, ''),
               annotations.get(kc_vif.ANNOTATION))
