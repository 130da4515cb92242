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

"""How soon a node knows of services, and in how much memory; as root.

The agent's part: from what the controller answers, as it comes from the wire,
until packets are led by it. What follows (waiting for packets in flight,
deleting what they used) is no part of it. Prints figures as JSON.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time

from benchmarks import lab
from benchmarks import node
from kuryr_cilium.agent import services
from kuryr_cilium.agent import viewfile
from kuryr_cilium.cmd import agent as process  # noqa: F401 - what it loads
from kuryr_cilium.datapath.bpf import driver
from kuryr_cilium.datapath.bpf import services as bpf
from kuryr_cilium.lb import model
from kuryr_cilium import memory
from kuryr_cilium.rpc import objects
from kuryr_cilium.rpc import sync
from tests import base
from tests.functional.datapath import scene

SERVICES = 10000
BACKENDS = 3
UPDATES = 200
PAGE = 500
HOST = 'node'


def cluster(count):
    """So many services with three backends each."""
    return [service(number, number * BACKENDS) for number in range(count)]


def service(number, first):
    """A service.

    :param first: of the pods that are its backends.
    """
    return model.Service(
        'ns-%d' % (number % 100), 'service-%d' % number,
        '2026-01-01T00:00:00Z',
        ('172.30.%d.%d' % (number // 250 + 1, number % 250 + 1),), ports=(
            model.Port('p80', 6, 80, backends=tuple(
                model.Backend(
                    '10.%d.%d.%d' % (64 + place // 65536,
                                     place // 256 % 256, place % 256),
                    8080, 'node-%d' % (place % 100),
                    mac='fa:16:3e:%02x:%02x:%02x' % (
                        place // 65536, place // 256 % 256, place % 256),
                    network_id='net')
                for place in range(first, first + BACKENDS))),))


class Controller:
    """Answers with pages of JSON, as RabbitMQ brings them."""

    def __init__(self):
        self.pages = []

    def put(self, *found):
        self.pages = [json.dumps({
            'epoch': 1, 'synced': True, 'removed': [],
            'changed': [objects.dump(obj)
                        for obj in found[start:start + PAGE]],
            'cursor': 'more' if start + PAGE < len(found) else None})
            for start in range(0, len(found), PAGE)]

    def services(self, host, have, keys=None):
        pages = iter(self.pages)
        return sync.collect(
            lambda known, cursor: json.loads(next(pages)), have)


class Agent:
    """The agent's services with a driver of their own."""

    def __init__(self, pins, state):
        self._driver = driver.BPFDriver(scene.make_conf(pins, state))
        self._driver.start(())
        self.controller = Controller()
        self._services = services.Services(
            HOST, self.controller, self._driver,
            viewfile.ViewFile(os.path.join(state, 'services.json')),
            interval=3600)
        self._turned = None
        made = self._driver._services
        write = made._write

        def stamp(table, rows):
            write(table, rows)
            if table == bpf.ADDRESSES and rows:
                self._turned = time.perf_counter()

        made._write = stamp

    def load(self, found):
        """Seconds until all of these are in force, from nothing."""
        self.controller.put(*found, model.Node(HOST))
        begin = time.perf_counter()
        self._services.start()
        base.wait_until(lambda: self._services.trouble() is None, 60,
                        interval=0.05)
        return self._turned - begin

    def change(self, changed):
        """Seconds until one that is different is in force."""
        self.controller.put(changed)
        key = objects.key(changed)
        digest = objects.digest(changed)
        begin = time.perf_counter()
        self._services.hint(1, {key: digest})
        base.wait_until(lambda: self._services.current().get(
            changed.id) == changed, 10, interval=0.005)
        return self._turned - begin

    def stop(self):
        self._services.stop()
        self._driver.stop()


def main(*arguments):
    if not arguments:
        with tempfile.TemporaryDirectory() as pins, \
                tempfile.TemporaryDirectory() as state:
            subprocess.run(['mount', '-t', 'bpf', 'bpf', pins], check=True)
            try:
                # In a process of its own: what it has in memory is the
                # agent's.
                subprocess.run(
                    [sys.executable, '-m', 'benchmarks.services_agent',
                     os.path.join(pins, 'kc'), state], check=True)
            finally:
                subprocess.run(['umount', pins], check=True)
        return
    # As the agent does.
    memory.tune()
    empty = node.process_memory('VmRSS')
    agent = Agent(*arguments)
    try:
        loaded = agent.load(cluster(SERVICES))
        gc.collect()
        figures = {'svc_load_10k_s': loaded,
                   'svc_load_10k_rss_mib': node.process_memory('VmRSS')}
        figures['svc_load_10k_more_mib'] = (
            figures['svc_load_10k_rss_mib'] - empty)
        found = [agent.change(service(
            number * 37 % SERVICES, (SERVICES + number) * BACKENDS)) * 1000
            for number in range(UPDATES)]
    finally:
        agent.stop()
    figures.update(svc_update_p50_ms=lab.percentile(found, 0.5),
                   svc_update_p99_ms=lab.percentile(found, 0.99))
    print(json.dumps(figures))


if __name__ == '__main__':
    main(*sys.argv[1:])
