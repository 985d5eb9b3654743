#!/usr/bin/env bash
# What a guarantee costs on real data: the certified network of the default run, with its fixed and
# with a learned step (20 minutes each, on one core with OMP_NUM_THREADS=1), regularisers without a
# guide, an unconstrained and a penalised network, each with its certificate, and total variation
# with its weight tuned on validation photographs. Trained on DATA/bsd400_gray with kernel k1 and noise 2.55 of 255, tested on images
# 01-04 of DATA/set12.
# usage: benchmarks/certified.sh DATA OUT [NAME ...]   (names: guided learned lip crr wcrr dncnn penalised tv)
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
bmo=$here/../scripts/bmo
usage="usage: benchmarks/certified.sh DATA OUT [NAME ...]"
data=${1:?$usage}
out=${2:?$usage}
shift 2
names=${*:-guided learned lip crr wcrr dncnn penalised tv}
common=(data=folder "data.train='$data/bsd400_gray/test_[0-2]*.png'"
    "data.val='$data/bsd400_gray/test_39?.png'" "data.test='$data/set12/0[1-4].png'"
    task.kernels="$data/kernels/levin09.npz" task.kernel=0)
run() { # NAME OVERRIDE...
    local name=$1
    shift
    [ -f "$out/$name/result.json" ] || "$bmo" train "${common[@]}" "$@" \
        hydra.run.dir="$out/$name"
}
ends=(certify=true "eval.score_at=[1,5,15,60,300,1000]")
ridge=(hyper=implicit gkm.operator.gamma=5 train.iterations=40 train.batch=4 train.clip=0.05
    train.steps=null train.max_minutes=20 train.validate_every=500 eval.iterations=200)
free=(net=dncnn hyper=bmo train.iterations=8 train.steps=null train.max_minutes=5
    train.validate_every=200)
for name in $names; do
    case $name in
        guided)
            run guided train.max_minutes=20 train.validate_every=3000 eval.iterations=200 \
                "${ends[@]}" ;;
        learned) # a shorter step, which converges in more iterations
            run learned train.max_minutes=20 train.validate_every=3000 eval.iterations=300 \
                gkm.operator.learn=true gkm.operator.gamma=10 train.iterations=15 "${ends[@]}" ;;
        lip | crr | wcrr) run "$name" net="$name" "${ridge[@]}" "${ends[@]}" ;;
        dncnn) run dncnn "${free[@]}" "${ends[@]}" ;;
        penalised) run penalised "${free[@]}" train.penalty=1.0e-3 "${ends[@]}" ;;
        tv)
            for form in tv tv_anisotropic; do
                for weight in 6e-4 9e-4 1.3e-3; do
                    run $form-$weight method=tv task.form=$form task.tv_weight=$weight \
                        eval.images=0 eval.iterations=500
                done
            done ;;
        *) echo "$usage" >&2; exit 2 ;;
    esac
done
"$bmo" compare "$out"/*
