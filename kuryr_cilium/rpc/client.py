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

"""The calling ends: agents call controllers, controllers hint agents.

A call comes back within its timeout, whatever RabbitMQ does, and fails with
one exception: exceptions.RPCFailed.
"""

import threading
import time
import typing

from oslo_log import log as logging
import oslo_messaging

from kuryr_cilium import exceptions
from kuryr_cilium.rpc import sync
from kuryr_cilium.rpc import transport

LOG = logging.getLogger(__name__)

_HINTS_IN_A_MESSAGE = 1000
_PENDING_HINTS = 100000
_RETRY_SECONDS = 1.0


class _Caller:
    """Calls methods on a topic; start() and stop() once each."""

    topic: str

    def __init__(self, conf):
        self._conf = conf
        self._worker = transport.Worker('rpc-%s' % self.topic)
        self._transport = None
        self._client = None
        self._warm = False

    def start(self):
        """Start the thread that calls; nothing is connected yet."""
        self._worker.start()

    def stop(self):
        """End calls under way and disconnect, within seconds."""
        self._worker.stop(self._close)

    def _close(self):
        if self._transport is not None:
            self._transport.cleanup()

    def _call(self, method, **arguments):
        """Call a method of the topic and return its answer."""
        timeout = self._conf.rpc.call_timeout
        until = time.monotonic() + timeout
        try:
            return self._worker.run(
                lambda wanted: self._do(wanted, until, method, arguments),
                timeout + 1)
        except Exception as error:
            # What the other side's method raises arrives as it was, too.
            raise exceptions.RPCFailed(
                method=method, topic=self.topic,
                reason=str(error) or type(error).__name__) from error

    def _do(self, wanted, until, method, arguments):
        if self._client is None:
            self._transport = transport.get(self._conf)
            self._client = oslo_messaging.get_rpc_client(
                self._transport, oslo_messaging.Target(
                    topic=self.topic, version=transport.VERSION), retry=1)
        if not self._warm:
            self._warm_up(until)
        left = until - time.monotonic()
        if not wanted() or left <= 0:
            raise TimeoutError('not connected in time')
        # NOTE: the timeout is the message's time to live, too: a call that
        # nobody took in time isn't executed later.
        return self._client.prepare(timeout=left).call({}, method,
                                                       **arguments)

    def _warm_up(self, until):
        """Have the queue for answers made, which may wait for ever.

        What was asked for meanwhile may be stale when it has been made, so
        the first call is one that says nothing.
        """
        left = max(0.5, (until - time.monotonic()) / 4)
        try:
            self._client.prepare(timeout=left).call({}, 'ping')
        except oslo_messaging.MessagingTimeout:
            LOG.debug('Nobody on %s yet', self.topic)
        self._warm = True


class ControllerClient(_Caller):
    """An agent's calls to any replica of the controller."""

    topic = transport.CONTROLLER

    def sync_all(self, host: str, have: typing.Mapping) -> sync.SyncResult:
        """Ask for all that differs from what a node has.

        :param host: name of the node.
        :param have: digest by key of what it has.
        :raises: exceptions.RPCFailed; what was received until then is lost.
        """
        try:
            return sync.collect(
                lambda known, cursor: self._call(
                    'sync', host=host, have=known, cursor=cursor), have)
        except exceptions.InvalidWireObject as error:
            raise exceptions.RPCFailed(method='sync', topic=self.topic,
                                       reason=str(error)) from error

    def services(self, host: str, have: typing.Mapping,
                 keys: typing.Optional[typing.Iterable[str]] = None
                 ) -> sync.SyncResult:
        """Ask for the services that differ from what a node has.

        :param have: digest by key of what it has, of what is asked about.
        :param keys: what is asked about; None: everything.
        :raises: exceptions.RPCFailed; what was received until then is lost.
        """
        keys = None if keys is None else sorted(keys)
        try:
            return sync.collect(
                lambda known, cursor: self._call(
                    'services', host=host, have=known, cursor=cursor,
                    keys=keys), have)
        except exceptions.InvalidWireObject as error:
            raise exceptions.RPCFailed(method='services', topic=self.topic,
                                       reason=str(error)) from error


class LeaderClient(_Caller):
    """An agent's reports to the leader; each is acknowledged."""

    topic = transport.LEADER

    def released(self, host: str, vifs: typing.Sequence[dict]) -> None:
        """Report ports that are unplugged and may be given to others.

        :param vifs: [{'vif_id': ..., 'pod_uid': ...}].
        :raises: exceptions.RPCFailed: report them again later.
        """
        self._call('released', host=host, vifs=list(vifs))

    def plugged(self, host: str, vifs: typing.Iterable[str]) -> None:
        """Report every port that is plugged on a node.

        :param vifs: ids of the ports.
        :raises: exceptions.RPCFailed: report again later.
        """
        self._call('plugged', host=host, vifs=sorted(vifs))


class HintSender:
    """A controller's hints to agents that something changed.

    The first goes out at once. What comes within a few hundredths of a second
    after it goes to that node as one message.
    While RabbitMQ is away hints are kept, merged, and sent when it is back.
    """

    def __init__(self, conf):
        self._conf = conf
        self._changed = threading.Condition()
        self._pending = {}
        self._epoch = 0
        self._stop = threading.Event()
        self._thread = None
        self._transport = None
        self._client = None

    def start(self):
        self._thread = threading.Thread(target=self._run, name='rpc-hints',
                                        daemon=True)
        self._thread.start()

    def stop(self):
        """End within seconds; what is pending is dropped: agents sync."""
        with self._changed:
            self._stop.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(transport.STOP_TIMEOUT)

    def send(self, host: typing.Optional[str], epoch: int,
             objects: typing.Mapping) -> None:
        """Hint at what changed; never waits.

        :param host: name of the node, None for all of them.
        :param objects: digest by key, None for what no longer exists.
        """
        with self._changed:
            self._epoch = max(self._epoch, epoch)
            self._pending.setdefault(host, {}).update(objects)
            self._changed.notify()

    def _run(self):
        # When nodes were hinted, of those that wait for their next hint.
        last = {}
        while True:
            with self._changed:
                while not self._stop.is_set():
                    now = time.monotonic()
                    since = now - self._conf.rpc.hint_delay
                    last = {host: sent for host, sent in last.items()
                            if sent > since}
                    due = self._pending.keys() - last.keys()
                    if due:
                        break
                    self._changed.wait(min(
                        (last[host] - since for host in self._pending),
                        default=None))
                if self._stop.is_set():
                    break
                pending = {host: self._pending.pop(host) for host in due}
                epoch = self._epoch
            last.update(dict.fromkeys(pending, now))
            self._send_all(pending, epoch)
        if self._transport is not None:
            self._transport.cleanup()

    def _send_all(self, pending, epoch):
        while pending and not self._stop.is_set():
            host = next(iter(pending))
            try:
                self._send(host, epoch, pending[host])
            except Exception as error:
                # NOTE: it isn't always oslo.messaging's own exception that
                # says that RabbitMQ is away; kombu's comes through.
                LOG.warning('Hints to agents are delayed, as RabbitMQ did '
                            'not take them: %s', error)
                self._keep(pending)
                self._stop.wait(_RETRY_SECONDS)
                return
            del pending[host]

    def _keep(self, unsent):
        """Put back what could not be sent, under what came meanwhile."""
        with self._changed:
            for host, objects in unsent.items():
                self._pending[host] = {**objects,
                                       **self._pending.get(host, {})}
            if sum(map(len, self._pending.values())) > _PENDING_HINTS:
                LOG.warning('Too many hints are pending, they are dropped: '
                            'agents will see the changes at their next sync')
                self._pending = {}

    def _send(self, host, epoch, objects):
        if self._client is None:
            self._transport = transport.get(self._conf)
            self._client = oslo_messaging.get_rpc_client(
                self._transport, oslo_messaging.Target(
                    topic=transport.AGENT, version=transport.VERSION),
                retry=1)
        client = (self._client.prepare(fanout=True) if host is None
                  else self._client.prepare(server=host))
        keys = sorted(objects)
        for first in range(0, len(keys), _HINTS_IN_A_MESSAGE):
            client.cast({}, 'changed', epoch=epoch, objects={
                key: objects[key]
                for key in keys[first:first + _HINTS_IN_A_MESSAGE]})
