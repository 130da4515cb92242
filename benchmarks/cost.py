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

"""The cost of a packet: BPF_PROG_TEST_RUN of a program against a no-op.

In a BPF file system and on maps of its own; nothing is attached.
"""

import os
import socket
import statistics
import struct
import subprocess
import tempfile

from benchmarks import lab
from kuryr_cilium.datapath.bpf import layout
from kuryr_cilium.datapath.bpf import libbpf
from kuryr_cilium.datapath.bpf import loader

REPEAT = 200000
ROUNDS = 7
ENDPOINT = 16
SPACE = 16
MAC, GATEWAY = '02:00:00:00:00:01', '02:00:00:00:00:fe'
POD, PEER = '10.99.0.10', '10.99.0.20'
LOOPBACK = 1
SYN, ACK = 0x02, 0x10


def figures():
    """ns a packet, and the ratio of an established one to a no-op."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['mount', '-t', 'bpf', 'bpf', folder], check=True)
        try:
            return _measure(os.path.join(folder, 'kuryr-cilium'))
        finally:
            subprocess.run(['umount', folder], check=True)


def _measure(pins):
    with loader.load(lab.bpf_object(
            '../kuryr_cilium/datapath/src/kuryr_cilium.bpf.c'),
            pins) as loaded:
        maps = {name.rsplit('_', 1)[0]: fd
                for name, fd in loaded.maps.items()}
        _fill(maps)
        program = loaded.programs['from_pod']
        noop = loaded.programs['noop']
        _run(program, SYN)
        _answer(loaded.programs['to_pod'], maps)
        packets = {'noop': (noop, ACK), 'established': (program, ACK)}
        found = {name: [] for name in packets}
        for _ in range(ROUNDS):
            for name, (fd, flags) in packets.items():
                found[name].append(_run(fd, flags, REPEAT))
    medians = {name: statistics.median(values)
               for name, values in found.items()}
    return {'noop_ns': medians['noop'],
            'established_ns': medians['established'],
            'established_to_noop': medians['established'] / medians['noop']}


def _fill(maps):
    libbpf.map_update(maps['kc_if'], struct.pack('=I', LOOPBACK),
                      struct.pack('=I', ENDPOINT))
    libbpf.map_update(
        maps['kc_endpoint'], struct.pack('=I', ENDPOINT),
        layout.Endpoint(SPACE, SPACE + 1, 2, 2, LOOPBACK, LOOPBACK, 1, 0, MAC,
                        (GATEWAY,), (POD,)).pack())


def _answer(to_pod, maps):
    """The SYN's answer makes the connection an established one."""
    frame = _frame(SYN | ACK, PEER, POD, 80, 40000, GATEWAY, MAC)
    libbpf.test_run(to_pod, frame, 1, _context())
    if not any(True for _ in libbpf.map_items(maps['kc_ct'])):
        raise RuntimeError('the connection was not established')


def _run(program, flags, repeat=1):
    frame = _frame(flags, POD, PEER, 40000, 80, MAC, GATEWAY)
    return libbpf.test_run(program, frame, repeat, _context()).nanoseconds


def _context():
    """A struct __sk_buff whose ifindex is the loopback device's."""
    context = bytearray(192)
    struct.pack_into('=I', context, 40, LOOPBACK)
    return bytes(context)


def _frame(flags, source, destination, sport, dport, smac, dmac):
    tcp = struct.pack('>HHIIBBHHH', sport, dport, 1, 1, 5 << 4, flags, 65535,
                      0, 0)
    ip = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 40, 1, 0x4000, 64, 6, 0,
                     socket.inet_aton(source), socket.inet_aton(destination))
    return (layout.mac_bytes(dmac) + layout.mac_bytes(smac) + b'\x08\x00'
            + ip + tcp)
