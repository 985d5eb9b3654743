#!/usr/bin/env bash
# An operator, a hyper-optimiser, a network and a task outside the package, one file and one YAML each:
# the first two are audited, all are trained. Arguments go to bmo train, but for the task.
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
mine=(--config-dir "$here" "plugins=[$here/half_step.py,$here/averaged.py]")
"$here/../scripts/bmo" audit "${mine[@]}" hyper=averaged
"$here/../scripts/bmo" audit "${mine[@]}" gkm=half problem=strongly_convex
"$here/../scripts/bmo" train "${mine[@]}" gkm=half hyper=averaged debug=tiny "$@"
"$here/../scripts/bmo" train --config-dir "$here" "plugins=[$here/smoothing.py]" gkm=pg net=smoothing debug=tiny "$@"
"$here/../scripts/bmo" train --config-dir "$here" "plugins=[$here/ridge.py]" task=ridge debug=tiny
