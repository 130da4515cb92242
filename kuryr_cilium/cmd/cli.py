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

"""kuryr-cilium: the operator's command line."""

import importlib.metadata
import os
import sys

from kuryr_cilium.cli import shell


def main(argv=None):
    # NOTE: tables as wide as the terminal; cliff asks for it by variable.
    os.environ.setdefault('CLIFF_FIT_WIDTH', '1')
    try:
        version = importlib.metadata.version('kuryr-cilium')
    except importlib.metadata.PackageNotFoundError:
        version = 'unknown'
    return shell.Shell(version).run(sys.argv[1:] if argv is None else argv)


if __name__ == '__main__':
    sys.exit(main())
