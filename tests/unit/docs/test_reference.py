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

"""What the documentation lists has to be what there is."""

import pathlib
import re

from kuryr_cilium.cli import shell
from kuryr_cilium.datapath.bpf import layout
from tests import base

DOCS = pathlib.Path(__file__).parents[3] / 'doc' / 'source'


class DropReasonsTestCase(base.TestCase):

    def test_every_reason_is_explained(self):
        text = (DOCS / 'reference' / 'drop-reasons.rst').read_text()
        listed = {int(number): name for number, name in re.findall(
            r'\* - (\d+)\n     - ``([a-z-]+)``', text)}
        self.assertEqual({reason.value: reason.text
                          for reason in layout.Reason if reason}, listed)


class CommandsTestCase(base.TestCase):

    def test_every_command_has_an_example(self):
        text = (DOCS / 'cli' / 'index.rst').read_text()
        for command in shell.COMMANDS:
            self.assertIn('# kuryr-cilium ' + command, text)
