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

"""What the tests of the agent share: objects of a view, records, fakes.

The fakes stand in for what is beyond the process (a controller, the kernel);
they are tested against the real thing elsewhere.
"""

import threading

from kuryr_cilium.agent import store
from kuryr_cilium.datapath import driver
from kuryr_cilium.policy import model
from kuryr_cilium.rpc import objects
from kuryr_cilium.rpc import sync
from kuryr_cilium import vif as kc_vif
from tests.unit.binding import vifs

VIF = '7c0b1b8e-0a54-4c0b-9a57-0f6a5d7e1c01'
UID = '0b5ad0a4-0000-4000-8000-000000000001'


def endpoint(uid=UID, vif_id=VIF, name='web', ingress=model.ALLOW_ALL,
             egress=model.ALLOW_ALL, addresses=('10.99.3.7', 'fd99::3:7')):
    return model.Endpoint(
        uid, 'default', name, 'node-1', vif_id, 'fa:16:3e:00:03:07', 'net',
        addresses, ingress, egress)


def selector(identity, *addresses):
    return model.Selector(identity, '{"pods":{"org":"empire"}}', (
        model.Member('peer', tuple(addresses)),))


def ruleset(identity, *peers, direction=model.Direction.INGRESS):
    return model.RuleSet(
        identity, direction, (model.RuleGroup(
            model.Tier.NETWORK_POLICY, 0, model.Verdict.ALLOW,
            frozenset(peers), frozenset([model.PortRange(6, 80, 80)])),),
        (('NetworkPolicy/default/landing ingress[0]',),))


def record(uid=UID, vif_id=VIF, container='c1', name='web',
           state=store.READY, netns='/run/netns/x'):
    return store.Record(uid, 'default', name, container, 'eth0', netns,
                        kc_vif.dumps(vifs.make(vif_id)), state)


class Controller:
    """Answers sync_all() from what the test puts into it."""

    def __init__(self, *objs, epoch=1):
        self.epoch = epoch
        self.synced = True
        self.error = None
        self.calls = 0
        self.objects = {}
        self.put(*objs)

    def put(self, *objs):
        self.objects = {**self.objects,
                        **{objects.key(obj): obj for obj in objs}}

    def remove(self, *objs):
        gone = {objects.key(obj) for obj in objs}
        self.objects = {key: obj for key, obj in self.objects.items()
                        if key not in gone}

    def digests(self):
        return {key: objects.digest(obj)
                for key, obj in self.objects.items()}

    def sync_all(self, host, have):
        self.calls += 1
        if self.error is not None:
            raise self.error
        if not self.synced:
            return sync.SyncResult(self.epoch, False, {}, {}, frozenset())
        known = dict(self.objects)
        changed = {key: obj for key, obj in known.items()
                   if have.get(key) != objects.digest(obj)}
        return sync.SyncResult(
            self.epoch, True, changed,
            {key: objects.digest(obj) for key, obj in changed.items()},
            frozenset(have.keys() - known.keys()))


class Datapath:
    """Keeps the views that were applied."""

    def __init__(self):
        self.applied = []
        self.error = None
        self.denied = {}
        self.reported = []
        self.sweeps = 0
        self.stopped = threading.Event()

    def start(self, node_addresses, node_ips=()):
        self.node_addresses = node_addresses

    def stop(self):
        self.stopped.set()

    def apply(self, view):
        if self.error is not None:
            raise self.error
        self.applied.append(view)
        return driver.Applied(len(self.applied), self.denied)

    def events(self):
        yield from self.reported
        self.reported = []
        self.stopped.wait()

    def conflicts(self):
        return {}

    def drops(self):
        return {'POLICY': 3}

    def connections(self):
        return {UID: 2}

    def entries(self):
        return [driver.Entries(16, 'r', 'ingress', (UID,), 1, 2, 5)]

    def sweep(self):
        self.sweeps += 1

    def attachments(self):
        return {}
