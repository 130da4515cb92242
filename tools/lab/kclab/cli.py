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

"""The command `lab`."""

import argparse
import json
import os
import subprocess
import sys

from kclab import build
from kclab import cluster
from kclab import machine
from kclab import nodeparts
from kclab import parts
from kclab import settings
from kclab import status
from kclab import ui


def parser():
    top = argparse.ArgumentParser(
        prog='lab', description='A Kubernetes cluster on Neutron and Open '
        'vSwitch, on one machine.')
    top.add_argument('--state', metavar='DIR', help='state folder (default: '
                     '$KURYR_CILIUM_LAB_STATE, /var/lib/kuryr-cilium-lab)')
    commands = top.add_subparsers(dest='command', required=True,
                                  metavar='COMMAND')

    def add(name, function, help):
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(function=function)
        return command

    def with_kube_bin(command):
        command.add_argument(
            '--kube-bin', metavar='DIR', help='use the Kubernetes programs '
            'of this folder instead of building them')
        return command

    up = with_kube_bin(add('up', do_up, 'bring the lab up, or repair it'))
    up.add_argument('--nodes', type=int, metavar='N',
                    choices=range(1, settings.MAX_NODES + 1),
                    help='number of nodes (default: 2)')
    up.add_argument('--backend', choices=('ovn', 'ovs'),
                    help="Neutron's mechanism driver (default: ovn)")
    up.add_argument('--bare', action='store_true', default=None,
                    help='without the product: a plain CNI plugin instead')
    up.add_argument('--kube-proxy', action='store_true', default=None,
                    help="kube-proxy on the nodes, and nothing of the "
                    "product's for services but what pods send")
    add('down', do_down, 'remove the lab')
    command = add('status', do_status, 'show what runs')
    command.add_argument('-o', dest='output', choices=('text', 'json'),
                         default='text')
    command.add_argument('--memory', action='store_true',
                         help='with the memory of each part of the lab')
    command = add('shell', do_shell, 'run a command in a node')
    command.add_argument('node')
    command.add_argument('argv', nargs='*', metavar='-- CMD')
    command = add('run', do_run, 'run a program of the host beside the '
                  'control plane, with KUBECONFIG set')
    command.add_argument('argv', nargs='+', metavar='-- CMD')
    add('kubectl', None, 'run kubectl')
    command = add('load', do_load, 'import a docker archive on every node')
    command.add_argument('image', metavar='IMAGE.tar')
    command = add('logs', do_logs, 'show the end of the logs')
    command.add_argument('part', nargs='?')
    command.add_argument('-n', '--lines', type=int)
    command.add_argument('-f', '--follow', action='store_true')
    command = with_kube_bin(add('build', do_build, 'install and build what '
                                'the lab needs'))
    command.add_argument('--bare', action='store_true',
                         help='without the product')
    for name, function, help in (
            ('start', do_start, 'start a part, or power a node on'),
            ('stop', do_stop, 'stop a part, or power a node off'),
            ('restart', do_restart, 'stop and start a part')):
        command = add(name, function, help)
        command.add_argument('part')
        if name != 'start':
            command.add_argument('--kill', action='store_true',
                                 help='by SIGKILL')
        if name != 'stop':
            command.add_argument(
                '--env', action='append', default=[], metavar='NAME=VALUE',
                help='environment variable for this run of the part')
    command = add('conformance', do_conformance, 'run well-known policies on '
                  'real pods: who reaches whom, expected against seen')
    command.add_argument('--filter', default='', metavar='TEXT',
                         help='only scenarios with TEXT in file or name')
    command.add_argument('-o', dest='output', choices=('text', 'json'),
                         default='text')
    command = add('reboot', do_reboot, 'power a node off and on')
    command.add_argument('node')
    return top


def do_up(lab, args):
    whole = cluster.Cluster(lab)
    with whole.lock():
        whole.up(args.nodes, args.backend, args.bare, args.kube_bin,
                 args.kube_proxy)
    ui.say('the lab is up: try `tools/lab/lab kubectl get nodes`')


def do_down(lab, args):
    whole = cluster.Cluster(lab)
    with whole.lock(), ui.step('down'):
        whole.down()


def do_build(lab, args):
    build.run(lab, args.bare, args.kube_bin)
    ui.say('all is built')


def do_status(lab, args):
    facts = status.collect(cluster.Cluster(lab), args.memory)
    if args.output == 'json':
        print(json.dumps(facts, indent=1))
    else:
        status.show(facts)
    return 0 if facts['healthy'] else 1


def need_up(lab):
    if lab.spec is None:
        raise settings.LabError('the lab is not up')


def surroundings(lab):
    """The caller's environment, set for the lab."""
    env = {k: v for k, v in os.environ.items()
           if not k.lower().endswith('_proxy')}
    env['PATH'] = f'{lab.bin}:{env.get("PATH", settings.PATH)}'
    env['KUBECONFIG'] = str(lab.kubeconfig)
    return env


def do_shell(lab, args):
    whole = cluster.Cluster(lab)
    node = whole.find(args.node)
    if not isinstance(node, settings.Node):
        raise settings.LabError(f'{args.node} is not a node')
    env = parts.environment(lab) | {
        'TERM': os.environ.get('TERM', 'dumb'), 'PS1': f'{node.name}# '}
    argv = parts.entering(lab, node) + (args.argv or ['bash', '--norc'])
    os.chdir('/')
    os.execvpe(argv[0], argv, env)


def do_run(lab, args):
    need_up(lab)
    argv = parts.entering(lab) + args.argv
    os.execvpe(argv[0], argv, surroundings(lab))


def do_kubectl(lab, argv):
    need_up(lab)
    argv = parts.entering(lab) + [lab.tool('kubectl'), *argv]
    os.execvpe(argv[0], argv, surroundings(lab))


def do_conformance(lab, args):
    need_up(lab)
    python = lab.venv / 'bin' / 'python'
    env = dict(os.environ, KURYR_CILIUM_LAB_STATE=str(lab.state),
               KURYR_CILIUM_CACHE=str(lab.cache))
    os.chdir(lab.clone)
    os.execve(python, [str(python), '-m', 'tests.conformance',
                       f'--filter={args.filter}', '-o', args.output], env)


def do_load(lab, args):
    need_up(lab)
    ui.together(*(lambda n=node: nodeparts.load(lab, n, args.image)
                  for node in lab.nodes))


def do_logs(lab, args):
    whole = cluster.Cluster(lab)
    if args.part is None:
        for log in sorted(lab.log.glob('*.log')):
            print(f'==> {log}')
            subprocess.run(['tail', '-n', str(args.lines or 5), log])
        return
    found = whole.find(args.part)
    log = (lab.log / f'{found.name}.log' if isinstance(found, settings.Node)
           else found.log)
    argv = ['tail', '-n', str(args.lines) if args.lines else '+1',
            *(['-F'] if args.follow else []), str(log)]
    os.execvp(argv[0], argv)


def do_start(lab, args):
    whole = cluster.Cluster(lab)
    with whole.lock():
        _start(whole, whole.find(args.part), args.env)


def _start(whole, found, env=()):
    with ui.step(f'{found.name} started'):
        if isinstance(found, settings.Node):
            whole.start_node(found)
        else:
            found.start(dict(item.partition('=')[::2] for item in env))


def _stop(whole, found, kill):
    with ui.step(f'{found.name} stopped'):
        if isinstance(found, settings.Node):
            machine.power_off(whole.lab, found)
        else:
            found.stop(kill)
            found.record.forget()


def do_stop(lab, args):
    whole = cluster.Cluster(lab)
    with whole.lock():
        _stop(whole, whole.find(args.part), args.kill)


def do_restart(lab, args):
    whole = cluster.Cluster(lab)
    with whole.lock():
        found = whole.find(args.part)
        _stop(whole, found, args.kill)
        _start(whole, found, args.env)


def do_reboot(lab, args):
    whole = cluster.Cluster(lab)
    with whole.lock():
        node = whole.find(args.node)
        if not isinstance(node, settings.Node):
            raise settings.LabError(f'{args.node} is not a node')
        _stop(whole, node, True)
        _start(whole, node)


def main():
    argv = sys.argv[1:]
    # kubectl's options are its own: nothing of them may be taken for ours.
    rest = []
    if 'kubectl' in argv and argv.index('kubectl') in (0, 1, 2):
        cut = argv.index('kubectl') + 1
        argv, rest = argv[:cut], argv[cut:]
    args = parser().parse_args(argv)
    lab = settings.Settings(args.state)
    try:
        if args.command == 'kubectl':
            return do_kubectl(lab, rest)
        return args.function(lab, args)
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except settings.LabError as exc:
        print(f'lab: {exc}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
