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

"""QEMU, virtiofsd and the kernel: Debian's, unpacked, not installed.

They come from a newer Debian than the host's may be, so each program is run
by the dynamic loader that was fetched with it.
"""

import lzma
import pathlib
import re
import shutil

from kclab import build as lab_build
from kclab import settings
from kclab import ui

#: The Debian release that everything is taken from: Linux 6.12 (tcx needs
#: 6.6), QEMU 10.
SUITE = 'trixie'
PACKAGES = ('linux-image-cloud-amd64', 'qemu-system-x86', 'virtiofsd')
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'


class Folders:
    """Where things are, below the project's cache folder.

    :param lab: a kclab.settings.Settings, which names the cache folder.
    """

    def __init__(self, lab):
        self.cache = lab.cache
        self.folder = lab.cache / 'vm'
        self.root = self.folder / 'root'
        self.modules_of_all = self.root / 'usr' / 'lib' / 'modules'

    @property
    def release(self):
        """The kernel's, as uname -r says it."""
        return next(self.modules_of_all.iterdir()).name

    @property
    def modules(self):
        return self.modules_of_all / self.release

    @property
    def vmlinuz(self):
        return self.root / 'boot' / f'vmlinuz-{self.release}'

    def program(self, path, *arguments):
        """The command line of an unpacked program."""
        return [str(self.root / 'usr/lib64/ld-linux-x86-64.so.2'),
                '--library-path', str(self.root / 'usr/lib/x86_64-linux-gnu'),
                str(self.root / path), *map(str, arguments)]


def build(where):
    """Fetch and unpack what isn't there."""
    def make():
        shutil.rmtree(where.folder / 'packages', ignore_errors=True)
        shutil.rmtree(where.root, ignore_errors=True)
        _download(where, where.folder / 'packages')
        for package in sorted((where.folder / 'packages').glob('*.deb')):
            lab_build.command('dpkg', '-x', package, where.root)
        shutil.rmtree(where.folder / 'packages')
        (where.root / 'lib').symlink_to('usr/lib')
        lab_build.command('depmod', '-b', where.root, where.release)

    lab_build.once(
        where, 'vm', f'QEMU and a kernel of Debian {SUITE}',
        lab_build.digest(SUITE, *PACKAGES, pathlib.Path(__file__)), make,
        [where.modules_of_all])


def mirror():
    """Where this machine gets Debian's packages from.

    :raises: settings.LabError
    """
    def known():
        lines = lab_build.command(
            'apt-get', 'indextargets', '--format', '$(LABEL) $(REPO_URI)',
            'Created-By: Packages').splitlines()
        return [line.split()[1] for line in lines
                if line.startswith('Debian ')]

    # apt names the label only once it has the lists.
    if not known():
        lab_build.command('apt-get', 'update', '-qq')
    if not known():
        raise settings.LabError("apt's sources name no Debian mirror")
    return known()[0]


def _download(where, target):
    """Packages and all that they depend on, by apt with its own lists."""
    apt = where.folder / 'apt'
    for folder in (apt / 'lists/partial', apt / 'cache/archives/partial',
                   target / 'partial'):
        folder.mkdir(parents=True, exist_ok=True)
    # Nothing counts as installed.
    settings.write(apt / 'status', '')
    settings.write(apt / 'sources.list',
                   f'deb [signed-by={KEYRING}] {mirror()} {SUITE} main\n')
    options = {
        'Dir::Etc::sourcelist': apt / 'sources.list',
        'Dir::Etc::sourceparts': '/dev/null',
        'Dir::Etc::preferencesparts': '/dev/null',
        'Dir::State::lists': apt / 'lists',
        'Dir::State::status': apt / 'status',
        'Dir::Cache': apt / 'cache', 'Dir::Cache::archives': target,
        'APT::Sandbox::User': 'root', 'APT::Architecture': 'amd64'}
    get = ['apt-get', '-q'] + [f'-o{name}={value}' for name, value
                               in options.items()]
    with ui.step(f'package lists of Debian {SUITE}'):
        lab_build.command(*get, 'update')
    with ui.step('packages'):
        lab_build.command(*get, 'install', '-y', '--download-only',
                          '--no-install-recommends', *PACKAGES)
    shutil.rmtree(apt)


def module(where, name):
    """[(file name, content)] of a kernel module, after what it needs."""
    lines = lab_build.command(
        'modprobe', '-C', '/dev/null', '-d', where.root, '-S', where.release,
        '--show-depends', name).splitlines()
    found = []
    for path in re.findall(r'^insmod (\S+)', '\n'.join(lines), re.M):
        data = pathlib.Path(path).read_bytes()
        if path.endswith('.xz'):
            data = lzma.decompress(data)
        found.append((pathlib.Path(path).name.removesuffix('.xz'), data))
    return found
