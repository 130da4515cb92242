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

"""The listening ends: controllers answer agents, agents hear hints.

A server connects in its own thread, so that start() returns with RabbitMQ
away too, and is ended in it, so that stop() does. oslo.messaging keeps no
order between messages: a handler answers at once or enqueues.
"""

import threading
import typing

from oslo_log import log as logging
import oslo_messaging

from kuryr_cilium import exceptions
from kuryr_cilium.rpc import transport

LOG = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


class _Server:
    """Listens on a topic; start() and stop() once each."""

    def __init__(self, conf, topic, server, endpoint):
        self._conf = conf
        self._target = oslo_messaging.Target(topic=topic, server=server)
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._thread = None

    @property
    def listening(self) -> bool:
        """It is connected, or was and connects again by itself."""
        return self._listening.is_set()

    def start(self):
        self._thread = threading.Thread(
            target=self._run, name='rpc-%s-server' % self._target.topic,
            daemon=True)
        self._thread.start()

    def stop(self):
        """Take no further message, disconnect; returns within seconds."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(transport.STOP_TIMEOUT)
        if self._thread.is_alive():
            LOG.info('%s is left behind: it waits for RabbitMQ',
                     self._thread.name)

    def _run(self):
        while not self._stop.is_set():
            try:
                self._serve()
            except Exception:
                # What was misconfigured may be put right on RabbitMQ's
                # side; until then readiness shows it.
                LOG.exception('Cannot listen on %s, will try again',
                              self._target.topic)
                self._stop.wait(_RETRY_SECONDS)

    def _serve(self):
        own = transport.get(self._conf)
        try:
            server = oslo_messaging.get_rpc_server(
                own, self._target, [self._endpoint])
            server.start()
            self._listening.set()
            LOG.info('Listening on %s as %s', self._target.topic,
                     self._target.server)
            self._stop.wait()
            self._listening.clear()
            server.stop()
            server.wait()
        finally:
            own.cleanup()


class _Endpoint:
    """What every server answers."""

    target = oslo_messaging.Target(version=transport.VERSION)

    def __init__(self, stopped, handler):
        self._stopped = stopped
        self._handler = handler

    def ping(self, ctxt):
        """Say nothing: see client._Caller."""


class _ControllerEndpoint(_Endpoint):

    def sync(self, ctxt, host, have=None, cursor=None):
        return self._handler.sync(ctxt, host, have=have, cursor=cursor)

    def services(self, ctxt, host, have=None, cursor=None, keys=None):
        return self._handler.services(ctxt, host, have=have, cursor=cursor,
                                      keys=keys)


class _LeaderEndpoint(_Endpoint):

    @oslo_messaging.expected_exceptions(exceptions.Stopped)
    def released(self, ctxt, host, vifs):
        self._check()
        self._handler.released(ctxt, host, vifs)

    @oslo_messaging.expected_exceptions(exceptions.Stopped)
    def plugged(self, ctxt, host, vifs):
        self._check()
        self._handler.plugged(ctxt, host, vifs)

    def _check(self):
        """Refuse what arrives late, so that it is sent to the new leader."""
        if self._stopped():
            raise exceptions.Stopped(what='the leader')


class _AgentEndpoint(_Endpoint):

    def changed(self, ctxt, epoch, objects):
        if not self._stopped():
            self._handler(epoch, objects)


class ControllerServer(_Server):
    """Answers sync; every replica of the controller has one."""

    def __init__(self, conf, endpoint):
        """Initialise a server.

        :param endpoint: has sync(ctxt, host, have, cursor) and
            services(ctxt, host, have, cursor, keys), which answer as
            rpc.sync.Pager does.
        """
        super().__init__(
            conf, transport.CONTROLLER, conf.oslo_messaging_rabbit.hostname,
            _ControllerEndpoint(lambda: self._stop.is_set(), endpoint))


class LeaderServer(_Server):
    """Takes agents' reports; the leader has one for as long as it leads."""

    def __init__(self, conf, endpoint):
        """Initialise a server.

        :param endpoint: has released(ctxt, host, vifs) and
            plugged(ctxt, host, vifs); a report counts as taken when they
            return.
        """
        super().__init__(
            conf, transport.LEADER, conf.oslo_messaging_rabbit.hostname,
            _LeaderEndpoint(lambda: self._stop.is_set(), endpoint))


class HintServer(_Server):
    """Hears what changed; every agent has one."""

    def __init__(self, conf, host: str, callback: typing.Callable):
        """Initialise a server.

        :param host: name of this node.
        :param callback: callback(epoch, {key: digest or None}); called from
            several threads, it only enqueues.
        """
        super().__init__(
            conf, transport.AGENT, host,
            _AgentEndpoint(lambda: self._stop.is_set(), callback))
