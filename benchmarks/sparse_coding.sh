#!/usr/bin/env bash
# Sparse coding. Without DATA: synthetic codes, 16 iterations, classical and learned solvers, and
# bmo beside its unrolled twin (tied weights, three seeds). With DATA: photographs with salt-and-
# pepper noise, trained on DATA/bsd400_gray, LADMM tuned on validation photographs, test on the
# portrait DATA/set12/08.png, adjacent and overlapping patches.
# usage: benchmarks/sparse_coding.sh OUT [DATA]
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
bmo=$here/../scripts/bmo
out=${1:?usage: benchmarks/sparse_coding.sh OUT [DATA]}
data=${2:-}
bmo() { "$bmo" "$@"; }
run() { # NAME OVERRIDE...: one training run, unless it is there
    local name=$1
    shift
    [ -f "$out/$name/result.json" ] || bmo train "$@" eval.images=1 hydra.run.dir="$out/$name"
}

if [ -z "$data" ]; then
    curve="eval.score_at=[1,2,4,8,16,32,64,256,1024]"
    for method in ista fista; do run $method method=$method "$curve"; done
    run alista method=alista train.steps=2500 optim.lr=1e-2 train.max_minutes=9 train.validate_every=250
    run dladmm method=dladmm train.steps=2500 train.max_minutes=9 train.validate_every=250
    for seed in 0 1 2; do
        for hyper in bmo unrolled; do
            run tied-$hyper-$seed method=dladmm gkm.stages=1 hyper=$hyper seed=$seed \
                train.steps=1000 train.max_minutes=9 train.validate_every=250 "$curve"
        done
    done
    "$bmo" compare "$out"/*
    exit
fi

photographs=(data=folder "data.train='$data/bsd400_gray/test_[0-2]*.png'"
    "data.val='$data/bsd400_gray/test_39?.png'" "data.test=$data/set12/08.png")
run dladmm task=patch_coding method=dladmm "${photographs[@]}" gkm.stages=15 \
    train.iterations=15 train.batch=128 train.numerical_lr_factor=30 train.warmup=50 \
    train.steps=3000 train.max_minutes=8 train.validate_every=250
learned="$out/dictionary.npy" # of that run, so that the others need not learn it again
[ -f "$learned" ] || "$here/../.venv/bin/python" - "$out/dladmm/checkpoints/best.safetensors" \
    "$learned" <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import load_file

np.save(sys.argv[2], load_file(sys.argv[1])["task.dictionary"])
PYTHON
for stride in 8 4; do
    [ -d "$out/dladmm-stride$stride" ] || bmo eval run="$out/dladmm" task.stride=$stride \
        hydra.run.dir="$out/dladmm-stride$stride"
done
for hyper in bmo unrolled; do
    run tied-$hyper task=patch_coding method=dladmm hyper=$hyper gkm.stages=1 \
        "${photographs[@]}" task.dictionary="$learned" train.iterations=15 train.batch=128 train.numerical_lr_factor=10 \
        train.warmup=50 train.steps=500 train.max_minutes=4 train.validate_every=250
done
# LADMM by hand: the grid's best by the validation photographs (val/psnr in result.json) counts.
for kappa in 0.5 0.7 1.0; do
    for beta in 1 2 3; do
        run ladmm-$kappa-$beta task=patch_coding gkm=ladmm hyper=none "${photographs[@]}" \
            task.dictionary="$learned" gkm.alpha=null task.kappa=$kappa gkm.operator.beta=$beta eval.iterations=300
    done
done
"$bmo" compare "$out"/*
