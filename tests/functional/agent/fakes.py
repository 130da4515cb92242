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

"""What stands in for the datapath and the views around a Plugger.

The datapath here enforces nothing. It holds whoever plugs to the order, and
keeps in a file, as the kernel keeps pinned programs, what outlives a process.
"""

import json
import pathlib
import threading

from kuryr_cilium import exceptions
from kuryr_cilium.linux import netlink


class Datapath:
    """Records what is attached, by what process soever.

    :param path: the file.
    """

    def __init__(self, path):
        self._path = pathlib.Path(path)
        self._lock = threading.Lock()
        self._mine = {}
        self.known = True

    def pinned(self):
        """{vif_id: [ifindexes, active]} of all processes."""
        if not self._path.exists():
            return {}
        return json.loads(self._path.read_text())

    def attach(self, attachment):
        with netlink.Netlink() as net:
            for name in (attachment.kc, attachment.kq):
                if net.require(name).up and not self._is_attached(attachment):
                    raise AssertionError('%s was up before it was attached' %
                                         name)
        self._mine[attachment.vif_id] = attachment
        self._pin(attachment.vif_id, [_indexes(attachment), False])

    def adopt(self, attachment):
        if self.pinned().get(attachment.vif_id) != [_indexes(attachment),
                                                    True]:
            return False
        self._mine[attachment.vif_id] = attachment
        return True

    def activate(self, vif_id):
        attachment = self._mine[vif_id]
        if not self.known:
            raise exceptions.EndpointUnknown(vif=vif_id)
        with netlink.Netlink() as net:
            for name in (attachment.kc, attachment.kq):
                if not net.require(name).up:
                    raise AssertionError('%s is down' % name)
        self._pin(vif_id, [_indexes(attachment), True])

    def detach(self, vif_id):
        attachment = self._mine.pop(vif_id, None)
        if attachment and None not in _indexes(attachment):
            raise AssertionError('%s lost its programs' % attachment.kc)
        self._pin(vif_id, None)

    def attachments(self):
        return dict(self._mine)

    def stop(self):
        """Nothing goes on in a thread."""

    def lose(self):
        """What a reboot does."""
        self._path.unlink()

    def _is_attached(self, attachment):
        return self.pinned().get(attachment.vif_id, [None])[0] == _indexes(
            attachment)

    def _pin(self, vif_id, value):
        with self._lock:
            pinned = self.pinned()
            if value:
                pinned[vif_id] = value
            else:
                pinned.pop(vif_id, None)
            new = self._path.with_suffix('.new')
            new.write_text(json.dumps(pinned))
            new.rename(self._path)


class Views:
    """Knows every endpoint, or raises what it is told to."""

    def __init__(self):
        self.error = None
        self.waited = []

    def wait_endpoint(self, uid, vif_id, deadline):
        self.waited.append((uid, vif_id))
        if self.error:
            raise self.error


def _indexes(attachment):
    """Interface numbers: a link made anew is another one."""
    with netlink.Netlink() as net:
        return [link and link.index for link in (
            net.link(attachment.kc), net.link(attachment.kq))]
