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

"""The last view on disk, enforced at start before any message."""

import dataclasses
import json
import pathlib
from typing import Mapping, Optional

from oslo_log import log as logging

from kuryr_cilium.agent import durable
from kuryr_cilium.agent import view
from kuryr_cilium import exceptions
from kuryr_cilium.rpc import objects

LOG = logging.getLogger(__name__)

_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """What was read.

    :ivar epoch: leaseTransitions when it was made.
    :ivar held: the objects by key.
    """

    epoch: int
    held: Mapping[str, view.Held]


class ViewFile:
    """One file with every object of the last applied view.

    :param path: of the file; its folder is made.
    :raises: exceptions.StoreError if the folder can't be made.
    """

    def __init__(self, path):
        self._path = pathlib.Path(path)
        # Key -> what was written last, and as what.
        self._written: dict[str, tuple[view.Held, bytes]] = {}
        durable.make_folder(self._path.parent)

    def save(self, epoch: int, held: Mapping[str, view.Held]) -> None:
        """Replace the file.

        :raises: exceptions.StoreError
        """
        before, self._written = self._written, {}
        for key, item in held.items():
            written = before.get(key)
            # A change waits for this: it is not to take as long as a view
            # is large.
            if written is None or written[0] is not item:
                written = item, _encode({'digest': item.digest,
                                         'object': objects.dump(item.value)})
            self._written[key] = written
        durable.write(self._path, b'{"version":%d,"epoch":%d,"objects":[%b]}'
                      % (_VERSION, epoch, b','.join(
                          text for _, text in self._written.values())))

    def load(self) -> Optional[Saved]:
        """The last view; None if there is none.

        One that can't be read is set aside: without a view every endpoint
        denies, until the controller has sent one.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            LOG.error('The view %(path)s cannot be read: %(error)s.',
                      {'path': self._path, 'error': error})
            return None
        try:
            return parse(data)
        except (ValueError, KeyError, TypeError, AttributeError,
                exceptions.InvalidWireObject) as error:
            aside = durable.set_aside(self._path)
            LOG.error('The view %(path)s is not usable (%(error)s), it was '
                      'renamed to %(aside)s. Until the controller has sent '
                      'a view, pods without a pinned datapath are denied.',
                      {'path': self._path, 'error': error, 'aside': aside})
            return None


def _encode(data):
    return json.dumps(data, separators=(',', ':')).encode()


def parse(data: bytes) -> Saved:
    """The view in a file.

    :raises: ValueError, KeyError, TypeError, AttributeError,
        exceptions.InvalidWireObject
    """
    fields = json.loads(data)
    if fields['version'] != _VERSION:
        raise ValueError('version %r is not known' % (fields['version'],))
    held = {}
    for entry in fields['objects']:
        value = objects.load(entry['object'])
        held[objects.key(value)] = view.Held(value, entry['digest'])
    return Saved(int(fields['epoch']), held)
