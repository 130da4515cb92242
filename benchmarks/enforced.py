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

"""All of an agent's way with a policy, on a node with 200 endpoints.

The agent's own parts in a network namespace of their own: the thread of the
policy view, the BPF driver with its programs on the veth pairs of every
endpoint, and the view on disk. The controller's side of ``sync`` answers it as
JSON. Time is taken from the hint until the policy epoch is advanced: asking,
the answer, decoding it, assembling the view, planning, and the writes. The
policy goes again before the next one comes, at once.
"""

import json
import os
import subprocess
import sys
import threading
import time

from oslo_config import cfg

from benchmarks import lab
from benchmarks import nodeview
from kuryr_cilium.agent import sync
from kuryr_cilium.agent import viewfile
from kuryr_cilium import conf as options
from kuryr_cilium.datapath.bpf import driver as bpf
from kuryr_cilium.datapath import driver
from kuryr_cilium import memory
from kuryr_cilium.rpc import objects
from kuryr_cilium.rpc import sync as rpc_sync

ROUNDS = 100
HOST = 'node'


def run(pins, state):
    """The figures; needs root.

    :param pins: a folder in a BPF file system.
    :param state: a folder for the view on disk.
    """
    done = subprocess.run(
        ['unshare', '--net', sys.executable, '-m', 'benchmarks.enforced',
         pins, state], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


class Controller:
    """The controller's side of ``sync``; what it says travels as JSON."""

    def __init__(self):
        self.objects = {}
        self._pager = rpc_sync.Pager(lambda host: (1, True, self.objects))

    def update(self, changed, removed=()):
        """Take over wire forms; the hint for them."""
        self.objects = dict(self.objects)
        hint = dict.fromkeys(removed)
        for key in removed:
            del self.objects[key]
        for key, wire in changed.items():
            self.objects[key] = objects.load(wire)
            hint[key] = self._pager.digest(key, self.objects[key])
        return hint

    def sync_all(self, host, have):
        def call(known, cursor):
            asked = json.loads(json.dumps(known))
            return json.loads(json.dumps(self._pager.sync(
                None, host, asked, cursor)))
        return rpc_sync.collect(call, have)


class Agent:
    """The parts of an agent that a policy goes through.

    :param pins: a folder in a BPF file system.
    :param state: a folder for the view on disk.
    """

    def __init__(self, controller, pins, state):
        memory.tune()
        conf = cfg.ConfigOpts()
        options.register_opts(conf)
        conf([], project='kuryr-cilium')
        conf.set_override('pin_dir', os.path.join(pins, 'agent'), 'datapath')
        conf.set_override('object_file', lab.bpf_object(
            '../kuryr_cilium/datapath/src/kuryr_cilium.bpf.c'), 'datapath')
        self._driver = bpf.BPFDriver(conf)
        self._driver.start(('192.0.2.1',))
        self._applied = threading.Event()
        self._advanced = None
        advance = self._driver._writer.advance_epoch

        def stamp():
            advance()
            self._advanced = self._advanced or time.perf_counter()

        self._driver._writer.advance_epoch = stamp
        self._views = sync.Views(
            HOST, controller, self._driver,
            viewfile.ViewFile(os.path.join(state, 'view.json')),
            on_applied=self._applied.set)

    def start(self):
        """Plug every endpoint, and bring the first view in force."""
        links = ['link add kc%d type veth peer name kq%d\n' % (place, place)
                 for place in range(nodeview.ENDPOINTS)]
        subprocess.run(['ip', '-batch', '-'], check=True, text=True,
                       input=''.join(links))
        for place in range(nodeview.ENDPOINTS):
            self._driver.attach(driver.Attachment(
                'vif-%d' % place, 'local-%d' % place, 'kc%d' % place,
                'kq%d' % place,
                '02:00:00:00:%02x:%02x' % divmod(place, 256),
                ('10.9.0.%d' % place,), 'net'))
        self._views.start()
        self._wait()
        for place in range(nodeview.ENDPOINTS):
            self._driver.activate('vif-%d' % place)

    def stop(self):
        self._views.stop()
        self._driver.stop()

    def enforce(self, hint):
        """Milliseconds from a hint to the epoch of what it told of."""
        self._applied.clear()
        self._advanced = None
        begin = time.perf_counter()
        self._views.hint(1, hint)
        self._wait()
        return (self._advanced - begin) * 1000

    def _wait(self):
        if not self._applied.wait(60):
            raise RuntimeError('no view in force: %s' % self._views.trouble())
        if self._views.denied:
            raise RuntimeError(next(iter(self._views.denied.values())))


def main(pins, state):
    cluster = nodeview.Cluster()
    controller = Controller()
    controller.update(cluster.objects)
    agent = Agent(controller, pins, state)
    try:
        agent.start()
        found, lifted = [], []
        for number in range(ROUNDS):
            came, went = cluster.policy(number, 1)
            found.append(agent.enforce(controller.update(*came)))
            lifted.append(agent.enforce(controller.update(*went)))
    finally:
        agent.stop()
    print(json.dumps({
        'node_enforced_p50_ms': lab.percentile(found, 0.5),
        'node_enforced_p99_ms': lab.percentile(found, 0.99),
        'node_lifted_p50_ms': lab.percentile(lifted, 0.5),
        'node_lifted_p99_ms': lab.percentile(lifted, 0.99)}))


if __name__ == '__main__':
    main(*sys.argv[1:])
