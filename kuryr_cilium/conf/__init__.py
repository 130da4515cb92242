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

"""Configuration: one module an option group.

A module of this package that defines GROUP, OPTS, register_opts() and
list_opts() is found by itself: its options are registered on CONF and listed
for oslo-config-generator.
"""

import importlib
import pkgutil

from oslo_config import cfg

CONF = cfg.CONF


def modules():
    """The modules that define options, by name."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f'{__name__}.{info.name}')
        if hasattr(module, 'register_opts'):
            found.append(module)
    return found


def register_opts(conf):
    """Register every option of kuryr-cilium.

    :param conf: a cfg.ConfigOpts.
    """
    for module in modules():
        module.register_opts(conf)


register_opts(CONF)
