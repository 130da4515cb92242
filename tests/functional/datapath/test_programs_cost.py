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

"""What the programs cost the verifier, and that each packet is cheap."""

import re

from oslo_log import log as logging

from kuryr_cilium.datapath.bpf import cgroups
from tests.functional.datapath import flows

LOG = logging.getLogger(__name__)

#: Steps of the verifier, and bytes of stack: half of what Linux 5.10 takes.
STEPS = 100000
STACK = 512

PROGRAMS = ('from_pod', 'to_pod', 'from_host', 'from_uplink', 'to_uplink',
            *cgroups.HOOKS)


class TestCost(flows.ConnectionCase):

    def test_verifier(self):
        for program in PROGRAMS:
            text = self.bench.object.log(program)
            steps = int(re.search(r'processed (\d+) insns', text).group(1))
            stack = [int(size) for size in re.search(
                r'stack depth ([\d+]+)', text).group(1).split('+')]
            LOG.info('%s: %d steps, stack of its functions %s', program,
                     steps, stack)
            print('%s: verified in %d steps, stack %d bytes' % (
                program, steps, max(stack)))
            self.assertLess(steps, STEPS)
            self.assertLess(max(stack), STACK)

    def test_no_other_program_is_in_the_object(self):
        self.assertEqual({*PROGRAMS, 'noop'}, set(self.bench.programs))
