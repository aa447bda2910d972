#!/usr/bin/env bash
# The fuzzer's corpora: one text file a target in the repository (corpora/TARGET.hex), a folder of files for cargo-fuzz
# (corpus/TARGET, where it looks and writes by itself).
#
#   rpc/fuzz/corpus.sh unpack [TARGET ...]     before fuzzing
#   rpc/fuzz/corpus.sh pack [TARGET ...]       after it: what is in the folder and not in the file is added
#
# Smaller first: `cargo +nightly fuzz cmin --fuzz-dir rpc/fuzz TARGET`, then delete the inputs of corpora/TARGET.hex, then
# pack.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")"

inputs() { grep -v '^#' "corpora/$1.hex" || true; }

unpack() {
    local hex number=0
    mkdir -p "corpus/$1"
    while read -r hex; do
        number=$((number + 1))
        [ "$hex" != - ] || hex=
        # shellcheck disable=SC2059 # The format is the input.
        printf "$(sed 's/../\\x&/g' <<<"$hex")" >"corpus/$1/$(printf 'seed-%04d' "$number")"
    done < <(inputs "$1")
}

pack() {
    local file hex
    {
        grep '^#' "corpora/$1.hex"
        {
            inputs "$1"
            for file in "corpus/$1"/*; do
                hex=$(od -An -v -tx1 "$file" | tr -d ' \n')
                printf '%s\n' "${hex:--}"
            done
        } | awk '{ print length, $0 }' | sort -u | sort -k1,1n -k2 | cut -d' ' -f2
    } >"corpora/$1.hex.new"
    mv "corpora/$1.hex.new" "corpora/$1.hex"
}

command=${1:-}
case $command in unpack | pack) shift ;; *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p' corpus.sh >&2; exit 2 ;; esac
[ $# -gt 0 ] || set -- $(basename -s .hex corpora/*.hex)
for target; do
    [ -e "corpora/$target.hex" ] || { echo "no target $target" >&2; exit 2; }
    "$command" "$target"
done
