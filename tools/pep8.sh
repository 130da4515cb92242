#!/bin/bash
# Everything that can be found wrong without running it.
set -eu
cd "$(dirname "$0")/.."
flake8 kuryr_cilium tests benchmarks tools setup.py
lint-imports
git ls-files '*.sh' tools/lab/lab | while read -r f; do
    if head -n 1 "$f" | grep -q bash; then echo "$f"; fi
done | xargs -r bashate -v -i E006
doc8 --max-line-length 100 --ignore-path doc/build README.rst CONTRIBUTING.rst \
    HACKING.rst doc/source releasenotes/notes
