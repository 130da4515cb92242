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

"""Neutron on MariaDB, behind uWSGI, with what its backend needs."""

import shutil
import subprocess

from kclab import parts
from kclab import rabbit
from kclab import settings
from kclab import ui

NB, SB = 'tcp:127.0.0.1:6641', 'tcp:127.0.0.1:6642'


def mariadbd(data, scratch, socket):
    """Arguments of a server for a database that may be thrown away."""
    return ['mariadbd', '--no-defaults', f'--datadir={data}', '--user=root',
            f'--socket={socket}', f'--tmpdir={scratch}', '--skip-networking',
            '--skip-grant-tables', '--performance-schema=OFF',
            # Survives kill -9 of the server, not of the machine.
            '--innodb-flush-log-at-trx-commit=2', '--sync-binlog=0',
            '--innodb-buffer-pool-size=64M', '--innodb-log-file-size=32M']


def write_config(lab, where, socket, backend='ovn', transport='fake:///'):
    """neutron.conf and uwsgi.ini in a folder."""
    settings.write(where / 'neutron.conf', settings.template(
        'neutron.conf.in', venv=lab.venv_neutron, where=where, socket=socket,
        transport=transport,
        plugin='ovn-router' if backend == 'ovn' else 'router')
        + settings.template(f'ml2-{backend}.conf.in'), 0o600)
    settings.write(where / 'uwsgi.ini', settings.template(
        'uwsgi.ini.in', where=where, lab=settings.LAB))
    for name in ('lock', 'scratch'):
        (where / name).mkdir(parents=True, exist_ok=True)


def make_template(lab, where):
    """A data directory with Neutron's empty schema, made once.

    :param where: scratch folder; the template replaces lab.mysql_template.
    """
    data, socket = where / 'data', where / 'my.sock'
    where.mkdir(parents=True)
    write_config(lab, where, socket)

    def do(*argv):
        done = subprocess.run(argv, capture_output=True, text=True, cwd=where,
                              env=parts.environment(lab)
                              | {'TMPDIR': str(where / 'scratch')})
        if done.returncode:
            raise settings.LabError(f'{argv[0]}: {done.stdout[-2000:]}'
                                    f'{done.stderr[-2000:]}')

    do('mariadb-install-db', '--no-defaults', f'--datadir={data}',
       '--user=root', '--auth-root-authentication-method=normal',
       '--skip-test-db', '--skip-name-resolve',
       '--innodb-log-file-size=32M')
    with open(where / 'mariadbd.log', 'w') as log:
        server = subprocess.Popen(mariadbd(data, where / 'scratch', socket),
                                  stdout=log, stderr=log, cwd=where)
    try:
        ui.wait_for(parts.unix_answers(str(socket)), 60, 'MariaDB')
        do('mariadb', '--no-defaults', '-S', str(socket), '-e',
           'CREATE DATABASE neutron CHARACTER SET utf8mb3')
        do(str(lab.venv_neutron / 'bin' / 'neutron-db-manage'),
           '--config-file', str(where / 'neutron.conf'), 'upgrade', 'heads')
    finally:
        server.terminate()
        server.wait(60)
    shutil.rmtree(lab.mysql_template, ignore_errors=True)
    data.rename(lab.mysql_template)


def _ovn_parts(lab):
    ovn = lab.state / 'ovn'

    def database(name, port):
        path = ovn / f'{name}.db'

        def before():
            ovn.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                parts.run(lab, ['ovsdb-tool', 'create', path,
                                f'/usr/share/ovn/ovn-{name}.ovsschema'])

        def after():
            parts.run(lab, [f'ovn-{name}ctl', f'--db=tcp:127.0.0.1:{port}',
                            'init'])

        return parts.Part(
            lab, f'ovn-{name}',
            lambda: ['ovsdb-server', path, f'--remote=ptcp:{port}:0.0.0.0',
                     f'--remote=punix:{ovn}/{name}.sock',
                     f'--unixctl={ovn}/{name}.ctl'],
            before=before, after=after,
            ready=parts.tcp_answers('127.0.0.1', port))

    return [database('nb', 6641), database('sb', 6642),
            parts.Part(lab, 'northd',
                       lambda: ['ovn-northd', f'--ovnnb-db={NB}',
                                f'--ovnsb-db={SB}',
                                f'--unixctl={ovn}/northd.ctl'],
                       env={'OVN_RUNDIR': ovn})]


def make_parts(lab):
    mysql, where = lab.state / 'mysql', lab.state / 'neutron'
    socket, backend = mysql / 'my.sock', lab.spec['backend']
    own = {'TMPDIR': where / 'scratch', 'PYTHONWARNINGS': 'ignore',
           'PATH': f'{lab.venv_neutron}/bin:{settings.PATH}'}

    def copy_template():
        (mysql / 'scratch').mkdir(parents=True, exist_ok=True)
        if not (mysql / 'data').exists():
            shutil.rmtree(mysql / 'data.part', ignore_errors=True)
            subprocess.run(['cp', '-a', '--reflink=auto', lab.mysql_template,
                            mysql / 'data.part'], check=True)
            (mysql / 'data.part').rename(mysql / 'data')

    def config():
        write_config(lab, where, socket, backend, 'fake:///'
                     if backend == 'ovn' else
                     rabbit.url(lab, 'neutron', rabbit.NEUTRON_VHOST))

    found = _ovn_parts(lab) if backend == 'ovn' else []
    found += [
        parts.Part(lab, 'mariadb',
                   lambda: mariadbd(mysql / 'data', mysql / 'scratch',
                                    socket),
                   before=copy_template,
                   ready=parts.unix_answers(str(socket))),
        parts.Part(lab, 'neutron',
                   lambda: [lab.venv_neutron / 'bin' / 'uwsgi', '--ini',
                            where / 'uwsgi.ini'],
                   before=config,
                   env=own | {'OS_NEUTRON_CONFIG_DIR': where,
                              'OS_NEUTRON_CONFIG_FILES': 'neutron.conf'},
                   ready=parts.http_answers(settings.CP_IP, 9696,
                                            '/v2.0/networks'),
                   whole=True)]
    if backend == 'ovs':
        found.append(parts.Part(
            lab, 'neutron-rpc',
            lambda: [lab.venv_neutron / 'bin' / 'neutron-rpc-server',
                     f'--config-file={where}/neutron.conf'],
            env=own, whole=True))
    return found
