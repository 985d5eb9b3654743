#!/usr/bin/env bash
# A sweep of 24 tiny jobs, 2 at a time, of which 3 raise, 2 are killed and 1 runs out of memory; then
# its second start, with the faults mended: stress/faults.sh OUT
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1" && cd "$1" && cp "$here/faults/faulty.py" . || exit 1
rm -f mended
"$here/../scripts/bmo" train -m debug=tiny device=cpu data.crop=32 data.eval_crop=64 net=dncnn net.width=4 net.depth=2 \
    eval.images=0 hyper=unrolled hyper._target_=faulty.Faulty '+hyper.job=${seed}' 'seed=range(24)' \
    'plugins=[faulty.py]' jobs=2 hydra.sweep.dir=sweep >first.log
echo "first start: exit code $?"
"$here/../scripts/bmo" runs sweep --csv | cut -d, -f2 | sort | uniq -c
touch mended
"$here/../scripts/bmo" train resume=sweep 'plugins=[faulty.py]' >second.log
echo "second start: exit code $?, $(grep -c '^started: ' second.log) jobs run," \
    "$(grep -c 'done before' second.log) done before"
"$here/../scripts/bmo" runs sweep status=ok --csv | cut -d, -f2 | sort | uniq -c
