#!/usr/bin/env bash
# Real data, equal budget: bmo, unrolled and separate on the photographs of DATA/bsd400_gray with
# the eight kernels of DATA/kernels/levin09.npz, then images 01-04 of DATA/set12 with kernel k1,
# at the trained number of iterations and beyond.
# usage: benchmarks/real_data.sh DATA OUT [OVERRIDE ...]      (8 minutes of training a method)
set -eu
usage="usage: benchmarks/real_data.sh DATA OUT [OVERRIDE ...]"
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
bmo=$here/../scripts/bmo
data=${1:?$usage}
out=${2:?$usage}
shift 2
[ ! -e "$out" ] || { echo "real_data: $out exists already; name another folder" >&2; exit 2; }
for hyper in bmo unrolled separate; do
    "$bmo" train experiment=levin net=dncnn data=folder hyper=$hyper hydra.run.dir="$out/$hyper" \
        data.train="$data/bsd400_gray" "data.val='$data/set12/0[5-7].png'" \
        "data.test='$data/set12/0[1-4].png'" task.kernels="$data/kernels/levin09.npz" "$@"
    for iterations in 5 8 20 40; do
        "$bmo" eval run="$out/$hyper" task.kernel=k1 eval.iterations=$iterations \
            hydra.run.dir="$out/$hyper-k1-$iterations"
    done
done
"$bmo" compare "$out"/*-k1-*
