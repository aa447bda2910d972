#!/usr/bin/env bash
# What it costs to be observable while nobody observes: instructions of a call, client and server together, with the
# callsites of `tracing` compiled out, present and disabled, and with the feature `metrics` and no recorder.
#
# usage: rpc/benches/observe.sh     Needs valgrind, whose counts do not depend on the machine's load.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v valgrind >/dev/null || { echo 'valgrind is needed: it counts instructions' >&2; exit 1; }

few=2000 many=12000
# Else what is inlined differs from build to build by more than what is measured here.
export CARGO_PROFILE_BENCH_CODEGEN_UNITS=1

# Builds the bench with these features; prints where it is.
build() {
    cargo bench --quiet --package rpc --bench observe --no-run --message-format json "$@" |
        sed -n 's/.*"executable":"\([^"]*\/observe-[^"]*\)".*/\1/p' | tail -n 1
}

# The instructions of a run with so many calls.
instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$1" "$2" 2>&1 | sed -n 's/.*Collected : \([0-9]*\)$/\1/p'
}

# The instructions of one call: what more calls cost, and nothing of start and end.
per_call() {
    local one other
    one=$(instructions "$1" "$few") other=$(instructions "$1" "$many")
    [ -n "$one" ] && [ -n "$other" ] || { echo "valgrind counted nothing of $1" >&2; return 1; }
    echo $(((other - one) / (many - few)))
}

# With so many: what it costs in hundredths of a percent over the first.
show() { awk -v what="$1" -v a="$2" -v b="$3" 'BEGIN { printf "%-52s %7d %+7.2f %%\n", what, b, (b - a) * 100 / a }'; }

out=$(per_call "$(build --features tracing/max_level_off)")
plain=$(per_call "$(build)")
metrics=$(per_call "$(build --features metrics)")

printf '%-52s %7s\n' 'instructions of a call, client and server' ''
show 'callsites of tracing compiled out' "$out" "$out"
show 'callsites of tracing disabled' "$out" "$plain"
show '  and the feature metrics, without a recorder' "$plain" "$metrics"
