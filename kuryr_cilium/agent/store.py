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

"""What is plugged on this node: one file an interface, kept over reboots.

A record is written before anything is made for it and removed after
everything of it is gone. So whatever kills the agent, what it left is named
here.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import threading
from typing import Optional

from oslo_log import log as logging

from kuryr_cilium.agent import durable
from kuryr_cilium import exceptions
from kuryr_cilium import vif as kc_vif

LOG = logging.getLogger(__name__)

#: Something of the interface may exist, but it is not in use.
PLUGGING = 'plugging'
#: The interface was handed over to the container runtime.
READY = 'ready'

_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A pod's interface.

    :ivar uid: UID of the pod in the API.
    :ivar container_id: CNI_CONTAINERID, that of the sandbox.
    :ivar ifname: CNI_IFNAME, 'eth0' as a rule.
    :ivar netns: path of the pod's network namespace.
    :ivar vif: the VIF's os-vif primitive as JSON.
    :ivar state: PLUGGING or READY.
    """

    uid: str
    namespace: str
    name: str
    container_id: str
    ifname: str
    netns: str
    vif: str
    state: str = PLUGGING

    @property
    def key(self) -> tuple[str, str, str]:
        return self.uid, self.container_id, self.ifname

    @property
    def pod(self) -> str:
        """The pod as people name it."""
        return f'{self.namespace}/{self.name}'

    @property
    def vif_id(self) -> str:
        """Id of the Neutron port."""
        return _vif_id(self.vif)

    def load_vif(self):
        """The VIF as an object of os-vif."""
        return kc_vif.loads(self.vif).default_vif


class Store:
    """The records, in memory and in files. Safe for threads.

    :param path: the folder; made if it is not there.
    :param on_corrupt: called with the path of a file that was set aside.
    :raises: exceptions.StoreError if the folder can't be made.
    """

    def __init__(self, path, on_corrupt=None):
        self._path = pathlib.Path(path)
        self._on_corrupt = on_corrupt or (lambda aside: None)
        self._lock = threading.Lock()
        self._records = {}
        durable.make_folder(self._path)
        for file in sorted(self._path.glob('*.json')):
            record = self._load(file)
            if record is not None:
                self._records[record.key] = record

    def put(self, record: Record) -> None:
        """Write a record, in place of one of the same key.

        :raises: exceptions.StoreError
        """
        data = {'version': _VERSION, **dataclasses.asdict(record)}
        with self._lock:
            durable.write(self._file(record),
                          json.dumps(data, indent=1).encode())
            self._records[record.key] = record

    def get(self, uid: str, container_id: str,
            ifname: str) -> Optional[Record]:
        with self._lock:
            return self._records.get((uid, container_id, ifname))

    def find(self, container_id: str, ifname: str) -> Optional[Record]:
        """A record without the pod's UID, which a DEL may lack."""
        with self._lock:
            for (_, container, name), record in self._records.items():
                if (container, name) == (container_id, ifname):
                    return record
        return None

    def by_vif(self, vif_id: str) -> list[Record]:
        """The records of a Neutron port: more than one after a crash."""
        return [r for r in self.list() if r.vif_id == vif_id]

    def delete(self, record: Record) -> None:
        """Remove a record; nothing happens if it is not there.

        :raises: exceptions.StoreError
        """
        with self._lock:
            durable.remove(self._file(record))
            self._records.pop(record.key, None)

    def list(self) -> list[Record]:
        with self._lock:
            return list(self._records.values())

    def _file(self, record):
        # NOTE: none of the three can be trusted to be a file's name.
        digest = hashlib.sha256('\0'.join(record.key).encode()).hexdigest()
        return self._path / f'{digest[:32]}.json'

    def _load(self, file):
        try:
            record = parse(file.read_bytes())
        except (OSError, ValueError, KeyError, TypeError,
                exceptions.InvalidVIF) as error:
            aside = durable.set_aside(file)
            LOG.error('The endpoint record %(file)s is not usable '
                      '(%(error)s): it was renamed to %(aside)s. A pod that '
                      'it named is unplugged at the next sweep.',
                      {'file': file, 'error': error, 'aside': aside})
            self._on_corrupt(aside)
            return None
        return record


@functools.lru_cache(maxsize=4096)
def _vif_id(text):
    return kc_vif.facts(text).vif_id


def parse(data: bytes) -> Record:
    """The record in a file.

    :raises: ValueError, KeyError, TypeError, exceptions.InvalidVIF
    """
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError('it is not a JSON object')
    if fields.get('version') != _VERSION:
        raise ValueError('its version is %r, not %s' % (
            fields.get('version'), _VERSION))
    known = {f.name for f in dataclasses.fields(Record)}
    record = Record(**{k: v for k, v in fields.items() if k in known})
    if not all(isinstance(getattr(record, name), str) for name in known):
        raise ValueError('a field is not text')
    if record.state not in (PLUGGING, READY):
        raise ValueError('its state is %r' % record.state)
    record.vif_id  # raises if it can't be read
    return record
