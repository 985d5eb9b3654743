#!/usr/bin/env bash
# What a guarantee costs in colour and in rain: certified networks and unconstrained twins that train
# for about equal times on one core (OMP_NUM_THREADS=1; colour_gray for half of it), each with its certificate.
# Colour: trained on DATA/bsd_colour with kernel k1 and noise 2.55 of 255, tested on DATA/set3c.
# Rain: synthetic light rain on the embedded photographs, scored on their central 256 x 256 and whole.
# usage: benchmarks/certified_colour_rain.sh DATA OUT [NAME ...]
#        (names: colour colour_gray colour_dncnn rain rain_unet)
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
bmo=$here/../scripts/bmo
usage="usage: benchmarks/certified_colour_rain.sh DATA OUT [NAME ...]"
data=${1:?$usage}
out=${2:?$usage}
shift 2
names=${*:-colour colour_gray colour_dncnn rain rain_unet}
run() { # NAME OVERRIDE...
    local name=$1
    shift
    [ -f "$out/$name/result.json" ] || "$bmo" train "$@" train.max_minutes=null \
        data.eval_crop=256 certify=true hydra.run.dir="$out/$name"
}
evaluate() { # NAME SUFFIX OVERRIDE...
    local name=$1 suffix=$2
    shift 2
    [ -f "$out/$name-$suffix/result.json" ] || "$bmo" eval run="$out/$name" eval.images=0 "$@" \
        hydra.run.dir="$out/$name-$suffix"
}
colour=(task=deconv data=folder "data.train='$data/bsd_colour/*[!0].jpg'"
    "data.val='$data/bsd_colour/*20.jpg'" "data.test='$data/set3c/*.png'" data.channels=3
    task.kernels="$data/kernels/levin09.npz" task.kernel=0)
for name in $names; do
    case $name in
        colour)
            run colour "${colour[@]}" train.steps=1000 eval.iterations=200 \
                "eval.score_at=[5,15,60,1000]" ;;
        colour_gray) # channel by channel
            run colour_gray "${colour[@]}" net.channels=1 train.steps=380 \
                train.validate_every=190 eval.iterations=200 "eval.score_at=[5,15,60,1000]" ;;
        colour_dncnn)
            run colour_dncnn "${colour[@]}" net=dncnn hyper=bmo task.start=wiener train.steps=450 \
                train.validate_every=150 "eval.score_at=[15,60,300,1000]" ;;
        rain)
            run rain task=derain net=guided_layers hyper=truncated train.steps=400 \
                train.validate_every=100 "eval.score_at=[2,8,300,1000]"
            evaluate rain whole data.eval_crop=null ;;
        rain_unet)
            run rain_unet task=derain train.steps=500 "eval.score_at=[10,60,300,1000]"
            evaluate rain_unet whole data.eval_crop=null ;;
        *) echo "$usage" >&2; exit 2 ;;
    esac
done
"$bmo" compare "$out"/colour* "$out"/rain*
