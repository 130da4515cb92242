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

"""libbpf.so.1 through cffi: what of it is called, and what it says.

The ABI mode of cffi needs no compiler on the node.
"""

import threading

import cffi
from oslo_log import log as logging

from kuryr_cilium import exceptions

LOG = logging.getLogger(__name__)

LIBRARY = 'libbpf.so.1'

ffi = cffi.FFI()
ffi.cdef('''
struct bpf_object;
struct bpf_program;
struct bpf_map;
struct ring_buffer;

struct kc_map_info {
    uint32_t type, id, key_size, value_size, max_entries, map_flags;
    char name[16];
};
struct kc_prog_info {
    uint32_t type, id;
    uint8_t tag[8];
};
struct kc_link_info {
    uint32_t type, id, prog_id, pad, ifindex, attach_type;
};
struct kc_cgroup_link_info {
    uint32_t type, id, prog_id, pad;
    uint64_t cgroup_id;
    uint32_t attach_type;
};
struct bpf_link_create_opts {
    size_t sz;
    uint32_t flags, iter_info_len;
    void *iter_info;
    uint32_t target_btf_id;
    uint64_t cookie;
};
struct bpf_map_batch_opts {
    size_t sz;
    uint64_t elem_flags, flags;
};
struct bpf_test_run_opts {
    size_t sz;
    const void *data_in;
    void *data_out;
    uint32_t data_size_in, data_size_out;
    const void *ctx_in;
    void *ctx_out;
    uint32_t ctx_size_in, ctx_size_out, retval;
    int repeat;
    uint32_t duration, flags, cpu, batch_size;
};

typedef int (*libbpf_print_fn_t)(int, const char *, void *);
typedef int (*ring_buffer_sample_fn)(void *, void *, size_t);
int vsnprintf(char *, size_t, const char *, void *);

libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t);
int libbpf_num_possible_cpus(void);
struct bpf_object *bpf_object__open_file(const char *, void *);
int bpf_object__load(struct bpf_object *);
void bpf_object__close(struct bpf_object *);
struct bpf_program *bpf_object__next_program(struct bpf_object *,
                                             struct bpf_program *);
const char *bpf_program__name(const struct bpf_program *);
int bpf_program__fd(const struct bpf_program *);
int bpf_program__set_log_buf(struct bpf_program *, char *, size_t);
int bpf_program__set_log_level(struct bpf_program *, uint32_t);
struct bpf_map *bpf_object__next_map(struct bpf_object *, struct bpf_map *);
const char *bpf_map__name(const struct bpf_map *);
int bpf_map__fd(const struct bpf_map *);
_Bool bpf_map__is_internal(const struct bpf_map *);
uint32_t bpf_map__type(const struct bpf_map *);
uint32_t bpf_map__key_size(const struct bpf_map *);
uint32_t bpf_map__value_size(const struct bpf_map *);
uint32_t bpf_map__max_entries(const struct bpf_map *);
int bpf_map__reuse_fd(struct bpf_map *, int);
int bpf_map__set_max_entries(struct bpf_map *, uint32_t);

int bpf_obj_get(const char *);
int bpf_obj_pin(int, const char *);
int bpf_obj_get_info_by_fd(int, void *, uint32_t *);
int bpf_map_update_elem(int, const void *, const void *, uint64_t);
int bpf_map_lookup_elem(int, const void *, void *);
int bpf_map_delete_elem(int, const void *);
int bpf_map_update_batch(int, const void *, const void *, uint32_t *,
                         const struct bpf_map_batch_opts *);
int bpf_map_delete_batch(int, const void *, uint32_t *,
                         const struct bpf_map_batch_opts *);
int bpf_map_lookup_batch(int, void *, void *, void *, void *, uint32_t *,
                         const struct bpf_map_batch_opts *);
int bpf_link_create(int, int, int, const struct bpf_link_create_opts *);
int bpf_link_update(int, int, const void *);
int bpf_prog_test_run_opts(int, struct bpf_test_run_opts *);
struct ring_buffer *ring_buffer__new(int, ring_buffer_sample_fn, void *,
                                     const void *);
int ring_buffer__poll(struct ring_buffer *, int);
void ring_buffer__free(struct ring_buffer *);
''')


class Library:
    """libbpf, opened when it is first needed."""

    def __init__(self):
        self._lock = threading.Lock()
        self._lib = None
        self._libc = None
        self.messages = threading.local()
        self._printer = ffi.callback('libbpf_print_fn_t', self._print)

    def __getattr__(self, name):
        with self._lock:
            if self._lib is None:
                try:
                    lib = ffi.dlopen(LIBRARY)
                except OSError as error:
                    raise exceptions.DatapathError(
                        reason='%s: install libbpf 1.0 or newer '
                               '(package libbpf1 or libbpf)' % error)
                self._libc = ffi.dlopen(None)
                lib.libbpf_set_print(self._printer)
                self._lib = lib
        return getattr(self._lib, name)

    def _print(self, level, template, arguments):
        # NOTE: a va_list is passed as a pointer on every 64-bit ABI that
        # Linux has.
        if level > 0:
            return 0
        text = ffi.new('char[]', 4096)
        self._libc.vsnprintf(text, 4096, template, arguments)
        line = ffi.string(text).decode(errors='replace').strip()
        LOG.debug('%s', line)
        if hasattr(self.messages, 'lines'):
            self.messages.lines.append(line)
        return 0


lib = Library()


class Messages:
    """Collects what libbpf says to this thread."""

    def __enter__(self):
        lib.messages.lines = []
        return lib.messages.lines

    def __exit__(self, *exc_info):
        del lib.messages.lines
