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

"""Runs a service of oslo.service as a process."""

import logging as stdlib_logging
import multiprocessing
import os
import signal
import sys
import threading

from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import service

from kuryr_cilium.conf import opts
from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)

PROJECT = 'kuryr-cilium'

#: Starts that may fail one after the other before the process ends, and
#: seconds between them. Whoever started the process then shows it failed.
MAX_FAILURES = 5
RETRY_SECONDS = 2


def configure(argv=None):
    """Read the configuration and set logging up.

    :param argv: arguments of the command line without the program.
    :returns: the configuration.
    """
    conf = cfg.CONF
    opts.set_defaults()
    logging.register_options(conf)
    try:
        conf(sys.argv[1:] if argv is None else argv, project=PROJECT)
    except cfg.Error as error:
        sys.exit('%s: %s' % (os.path.basename(sys.argv[0]), error))
    logging.setup(conf, PROJECT)
    # NOTE: urllib3 warns of each retry; who uses it reports that itself.
    stdlib_logging.getLogger('urllib3').setLevel(stdlib_logging.ERROR)
    return conf


def run(conf, instance):
    """Launch a service and wait for its end.

    :param instance: a service of oslo.service, not started.
    :returns: the exit status of the process.
    """
    failures = multiprocessing.Value('i', 0)
    launcher = service.launch(conf, _Guard(instance, failures), workers=1,
                              restart_method='mutate')
    status = launcher.wait()
    return 1 if failures.value >= MAX_FAILURES else status


class _Guard(service.ServiceBase):
    """Ends the whole process when the service can't be started.

    The master process would start a worker that fails again and again, for
    ever, and look well while it does.
    """

    def __init__(self, instance, failures):
        self._instance = instance
        self._failures = failures
        self._stopped = None

    def start(self):
        self._stopped = threading.Event()
        try:
            self._instance.start()
        except Exception as error:
            self._failures.value += 1
            if isinstance(error, (exceptions.KuryrCiliumException, OSError)):
                LOG.critical('Cannot start: %s', error)
            else:
                LOG.exception('Cannot start')
            if self._failures.value >= MAX_FAILURES:
                LOG.critical('Giving up after %d attempts', MAX_FAILURES)
                os.kill(os.getppid(), signal.SIGTERM)
            self._stopped.wait(RETRY_SECONDS)
            raise SystemExit(1) from None
        self._failures.value = 0

    def wait(self):
        self._instance.wait()

    def stop(self):
        if self._stopped is not None:
            self._stopped.set()
        self._instance.stop()

    def reset(self):
        self._instance.reset()
