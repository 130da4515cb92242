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

"""A stream of UDP datagrams, one each millisecond, and who hears it.

Run within a pod's network namespace: stream.py send ADDRESS PORT or
stream.py receive PORT. The receiver prints the monotonic time of each
datagram, which is the same in every namespace of a machine.
"""

import socket
import sys
import time


def send(address, port):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        while True:
            try:
                sock.sendto(b'x', (address, int(port)))
            except OSError:
                # The route may be gone for a moment, a bench goes on.
                pass
            time.sleep(0.001)


def receive(port):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(('::', int(port)))
        while True:
            sock.recv(16)
            print('%.6f' % time.monotonic(), flush=True)


if __name__ == '__main__':
    {'send': send, 'receive': receive}[sys.argv[1]](*sys.argv[2:])
