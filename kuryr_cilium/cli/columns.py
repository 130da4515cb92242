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

"""How values with parts look to people; in JSON and YAML they keep them."""

from cliff import columns


class Lines(columns.FormattableColumn):
    """A list: one below the other."""

    def human_readable(self):
        return '\n'.join(str(item) for item in self._value)


class Fields(columns.FormattableColumn):
    """A mapping: one "name: value" a line."""

    def human_readable(self):
        return '\n'.join(f'{name}: {_flat(value)}'
                         for name, value in self._value.items())


class Short(columns.FormattableColumn):
    """A hash: its beginning tells it from others."""

    def human_readable(self):
        return self._value[:12]


class Maybe(columns.FormattableColumn):
    """What may be absent: then nothing is shown."""

    def human_readable(self):
        return '' if self._value is None else str(self._value)


def _flat(value):
    """A value within a line."""
    if isinstance(value, dict):
        return ', '.join(f'{name} {item}' for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ', '.join(str(item) for item in value)
    return value
