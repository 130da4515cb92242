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

"""What oslo-config-generator asks for."""

from oslo_log import log

from kuryr_cilium import conf


def list_opts():
    """Every option, as a list of (group, options)."""
    listed = []
    for module in conf.modules():
        listed.extend(module.list_opts().items())
    return listed


def set_defaults():
    """Defaults of libraries' options that differ in kuryr-cilium."""
    log.set_defaults(default_log_levels=log.get_default_log_levels() + [
        'openstack=WARN', 'ovsdbapp=WARN', 'pyroute2=WARN'])
