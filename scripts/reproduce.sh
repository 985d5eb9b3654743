#!/usr/bin/env bash
# Every table of configs/table in turn, each into OUT/NAME: what is there is kept, what is missing
# runs, a table with a failed cell does not stop the others.
# usage: scripts/reproduce.sh [OUT] [PRESET] [OVERRIDE ...]
#        PRESET: smoke (minutes), cpu (the default: hours on 2 cores), paper (a GPU)
#        OVERRIDE: as bmo table takes them: jobs=2 root=DIR dry_run=true
# Data sets with names are looked for in root=DIR, or BMO_DATA; cells without theirs say so.
set -u
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
out=${1:-outputs/tables}
preset=${2:-cpu}
shift $(($# < 2 ? $# : 2))
status=0
for file in "$here"/../configs/table/*.yaml; do
    name=$(basename "$file" .yaml)
    echo "== $name, preset=$preset"
    "$here/bmo" table "$name" preset="$preset" out="$out/$name" "$@"
    code=$?
    case $code in
        0) ;;
        130 | 143) exit $code ;; # stopped: the same command goes on
        *) status=1 ;;
    esac
done
exit $status
