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

"""How controller and agents reach each other: oslo.messaging.

With RabbitMQ away, oslo.messaging waits for it for ever in more than one
place (the first call of a process, the start and the stop of a server, a
reply). So nothing of it is called from a thread that has to come back:
:class:`Worker` does it in a thread that can be left behind.
"""

import collections
import threading

from oslo_concurrency import lockutils
from oslo_log import log as logging
import oslo_messaging
from oslo_messaging import opts as messaging_opts

from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)

#: Any replica of the controller listens to it.
CONTROLLER = 'kuryr-cilium-controller'
#: Only the leader listens to it.
LEADER = 'kuryr-cilium-leader'
#: The agents listen to it, each as a server of its own.
AGENT = 'kuryr-cilium-agent'

VERSION = '1.0'
EXCHANGE = 'kuryr-cilium'

#: Seconds for which a stop waits; what isn't done then is left behind.
STOP_TIMEOUT = 3.0

#: What suits RabbitMQ 3.10 and later, where the operator says nothing else.
#: Queues are replicated and survive a restart; a fanout is one stream for
#: all agents; names are fixed, so that a node's user can be kept to its own.
_RABBIT = {
    'rabbit_quorum_queue': True,
    'rabbit_transient_quorum_queue': True,
    'rabbit_stream_fanout': True,
    'rabbit_qos_prefetch_count': 10,
    'use_queue_manager': True,
    'rabbit_interval_max': 5,
    'kombu_missing_consumer_retry_timeout': 10,
}


def set_defaults(conf, process, host, lock_path):
    """Set the defaults of oslo.messaging that suit us, once in a process.

    What is set in a configuration file stays as it is.

    :param process: name of the process, part of the names of its queues.
    :param host: unique among the processes of that name: an agent's node, a
        controller's pod.
    :param lock_path: a folder that only this process writes to.
    """
    oslo_messaging.set_transport_defaults(EXCHANGE)
    for group, options in messaging_opts.list_opts():
        if group == 'oslo_messaging_rabbit':
            conf.register_opts(options, group=group)
    for name, value in dict(_RABBIT, hostname=host,
                            processname=process).items():
        conf.set_default(name, value, group='oslo_messaging_rabbit')
    lockutils.set_defaults(lock_path)


def get(conf):
    """A new transport; it connects when it is first used."""
    return oslo_messaging.get_rpc_transport(conf)


class _Job:
    """Something to be done for a caller that may give up."""

    def __init__(self, function):
        self.function = function
        self.done = threading.Event()
        self.wanted = True
        self.result = None
        self.error = None
        self._lock = threading.Lock()

    def finish(self, result=None, error=None):
        with self._lock:
            if not self.done.is_set():
                self.result, self.error = result, error
                self.done.set()


class Worker:
    """A thread that does one thing after the other for waiting callers.

    It is started once and stopped once.
    """

    def __init__(self, name):
        self._name = name
        self._changed = threading.Condition()
        self._jobs = collections.deque()
        self._current = None
        self._stopped = True
        self._thread = None

    def start(self):
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=self._name,
                                        daemon=True)
        self._thread.start()

    def run(self, function, timeout):
        """Have function(wanted) called and return what it returns.

        :param function: it is given a callable that is false once nobody
            waits any longer.
        :param timeout: seconds to wait for it.
        :raises: what function raises; TimeoutError; exceptions.Stopped.
        """
        job = _Job(function)
        with self._changed:
            if self._stopped:
                raise exceptions.Stopped(what=self._name)
            self._jobs.append(job)
            self._changed.notify()
        finished = job.done.wait(timeout)
        job.wanted = False
        if not finished:
            raise TimeoutError('not done within %g seconds' % timeout)
        if job.error is not None:
            raise job.error
        return job.result

    def stop(self, last=None):
        """End the thread; whoever waits gets exceptions.Stopped.

        :param last: called in the thread as the last thing.
        """
        with self._changed:
            if self._stopped:
                return
            self._stopped = True
            for job in [self._current, *self._jobs]:
                if job is not None:
                    job.finish(error=exceptions.Stopped(what=self._name))
            self._jobs.clear()
            if last is not None:
                self._jobs.append(_Job(lambda wanted: last()))
            self._changed.notify()
        self._thread.join(STOP_TIMEOUT)
        if self._thread.is_alive():
            LOG.info('%s is left behind: it waits for RabbitMQ', self._name)

    def _run(self):
        while True:
            with self._changed:
                while not self._jobs and not self._stopped:
                    self._changed.wait()
                if not self._jobs:
                    return
                job = self._current = self._jobs.popleft()
            if not job.wanted:
                continue
            try:
                job.finish(job.function(lambda: job.wanted and
                                        not job.done.is_set()))
            except Exception as error:
                # Whatever it is, it is for the caller, if there still is
                # one.
                LOG.debug('%s: %s', self._name, error)
                job.finish(error=error)
