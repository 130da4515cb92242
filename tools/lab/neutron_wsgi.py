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

"""Neutron's API for uWSGI, safe for concurrent requests from the first on.

Neutron loads its policy in the first request. A second request that comes
in the meantime finds half of the rules and is answered with 403.
"""

from neutron import policy
from neutron.wsgi.api import application  # noqa: F401

policy.init()
