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

import os
import signal
import subprocess
import sys
import time

from tests import base

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))

_PROGRAM = '''
import sys, threading
from kuryr_cilium.cmd import launch
from oslo_service import service

launch.RETRY_SECONDS = 0.05

class Service(service.Service):
    def start(self):
        self.ended = threading.Event()
        print('start', flush=True)
        %s

    def wait(self):
        self.ended.wait()

    def stop(self, graceful=False):
        print('stop', flush=True)
        self.ended.set()

conf = launch.configure([])
sys.exit(launch.run(conf, Service()))
'''


class TestLaunch(base.TestCase):

    def launch(self, start):
        path = self.create_tempfiles([('program', _PROGRAM % start)],
                                     ext='.py')[0]
        process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', path], cwd=_ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=dict(os.environ, PYTHONPATH=_ROOT), start_new_session=True)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def test_stops_when_told_to(self):
        process = self.launch('pass')
        for line in process.stdout:
            if line == 'start\n':
                break
        process.terminate()
        output = process.communicate(timeout=30)[0]
        self.assertEqual(0, process.returncode, output)
        self.assertIn('stop\n', output)

    def test_gives_up_a_service_that_can_not_start(self):
        process = self.launch('raise OSError("the port is taken")')
        output = process.communicate(timeout=60)[0]
        self.assertEqual(1, process.returncode, output)
        self.assertEqual(5, output.count('start\n'))
        self.assertEqual(5, output.count('Cannot start: the port'))
        self.assertIn('Giving up', output)

    def test_worker_that_dies_is_started_again(self):
        process = self.launch('pass')
        starts = 0
        began = time.monotonic()
        for line in process.stdout:
            if line == 'start\n':
                starts += 1
                if starts == 3:
                    break
                children = subprocess.run(
                    ['pgrep', '-P', str(process.pid)], check=True,
                    capture_output=True, text=True).stdout.split()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
            self.assertLess(time.monotonic() - began, 60)
        self.assertEqual(3, starts)
