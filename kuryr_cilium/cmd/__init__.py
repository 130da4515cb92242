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

"""The processes, one small module each.

The backend of oslo.service has to be chosen before anything imports
oslo_messaging or oslo_service.service, which would choose eventlet.
"""

import warnings

# NOTE: futurist, of which oslo.service makes use, imports eventlet where it is
# installed. Nothing here runs on it, so its warning would only alarm.
warnings.filterwarnings('ignore', message=r'\s*Eventlet is deprecated')

from oslo_service import backend  # noqa: E402

try:
    backend.init_backend(backend.BackendType.THREADING)
except backend.exceptions.BackendAlreadySelected:
    # NOTE: the tests import several processes into one interpreter.
    if backend.get_backend_type() != backend.BackendType.THREADING:
        raise
