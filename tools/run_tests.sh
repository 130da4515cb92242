#!/bin/bash
# All tests: tools/run_tests.sh [pep8] [unit] [functional] [e2e] (as root).
#
# Installs what they need (cached: a second run is quick), runs the named
# stages or all, and ends with one line of counts. A stage that could not run
# counts as one failure.
set -u
cd "$(dirname "$0")/.."
stages=${*:-pep8 unit functional e2e}
cache=${KURYR_CILIUM_CACHE:-$HOME/.cache/kuryr-cilium}
export KURYR_CILIUM_CACHE=$cache
passed=0 failed=0 skipped=0 summary=()
started=$SECONDS

say() { printf '\n== %s (%d min %02d s)\n' "$*" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)); }

finish() {
    if [ "$failed" != 0 ]; then
        say 'failures'
        failures
    fi
    say 'summary'
    printf '  %s\n' "${summary[@]}"
    cat "$logs"/* 2>/dev/null \
        | sed -n 's/^{[0-9]*} \(.*\) \[.*\.\.\. FAILED$/  failed: \1/p'
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ] && [ "$skipped" = 0 ]
    exit
}

# What failed tests tell, without their logs: all of the first, then the end of
# each traceback, as of a long output often only the end is kept.
failures() {
    cat "$logs"/* 2>/dev/null | awk '
        /^Failed [0-9]+ tests - output below/ { last = 1 }
        !last { next }
        /^Totals$/ { last = 0 }
        /^tests\./ { shown = 0; if (++count > 1) exit; print }
        /^Captured / { shown = !/pythonlogging|stdout|stderr/; getline; next }
        shown' | cut -c 1-160
    cat "$logs"/* 2>/dev/null | awk '
        function tell(i) {
            for (i = (n > 8 ? n - 7 : 1); i <= n; i++) print line[i]
            n = 0
        }
        /^Failed [0-9]+ tests - output below/ { last = 1 }
        !last { next }
        /^Totals$/ { tell(); last = shown = 0 }
        /^tests\./ { tell(); shown = 0; print }
        /^Captured / { shown = /^Captured traceback/; getline; next }
        shown && NF { line[++n] = $0 }'
}

die() {
    summary+=("$1")
    failed=$((failed + 1))
    finish
}

# note NAME STATUS SECONDS LOG: add what stestr counted to the totals.
note() {
    local p f s
    p=$(sed -n 's/^ - Passed: //p' "$4" | tail -n 1)
    f=$(sed -n 's/^ - Failed: //p' "$4" | tail -n 1)
    s=$(sed -n 's/^ - Skipped: //p' "$4" | tail -n 1)
    if [ "$1" = pep8 ]; then
        p=$(($2 == 0)) f=$(($2 != 0)) s=0
    elif [ -z "$p" ] || { [ "$2" != 0 ] && [ "${f:-0}" = 0 ]; } \
        || [ "$((p + f + s))" = 0 ]; then
        f=$((${f:-0} + 1))
    fi
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0})) skipped=$((skipped + ${s:-0}))
    summary+=("$(printf '%-11s %4d passed %3d failed %3d skipped %5d s' "$1" "${p:-0}" "${f:-0}" "${s:-0}" "$3")")
}

[ "$(id -u)" = 0 ] || { echo 'run me as root: the tests make network namespaces and load BPF programs' >&2; exit 1; }
logs=$(mktemp -d /tmp/kuryr-cilium-tests.XXXXXX)
lab_is_ours=
trap '[ -z "$lab_is_ours" ] || ./tools/lab/lab down; rm -rf "$logs"' EXIT

say 'installing what the tests need'
./tools/lab/lab build || die 'lab build failed'
if [ ! -x "$cache/venv-tox/bin/tox" ]; then
    python3 -m venv "$cache/venv-tox" && "$cache/venv-tox/bin/pip" install -q 'tox>=4.18' \
        || die 'tox could not be installed'
fi

for stage in $stages; do
    say "$stage"
    case $stage in
    unit) env=py3 ;;
    pep8|functional|e2e) env=$stage ;;
    *) die "no stage named $stage: pep8, unit, functional, e2e" ;;
    esac
    if [ "$stage" = e2e ]; then
        lab_is_ours=1
        ./tools/lab/lab up || die 'lab up failed'
    fi
    t=$SECONDS
    "$cache/venv-tox/bin/tox" -q --workdir "$cache/tox" -e $env 2>&1 | tee "$logs/$stage"
    note "$stage" "${PIPESTATUS[0]}" $((SECONDS - t)) "$logs/$stage"
done
finish
