#!/bin/sh
# Compile the eBPF programs: build.sh OUTPUT [SOURCE]; the compiler is $CLANG.
set -eu
source=$(dirname "$0")
output=$1
include=/usr/include/$(uname -m)-linux-gnu	# asm/types.h on Debian
trap 'rm -f "$output.$$"' EXIT
"${CLANG:-clang}" -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror \
    -fno-strict-aliasing -Wno-address-of-packed-member -I "$source" -I "$include" \
    -c "${2:-$source/kuryr_cilium.bpf.c}" -o "$output.$$"
mv "$output.$$" "$output"
