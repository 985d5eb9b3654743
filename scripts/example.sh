#!/usr/bin/env bash
# An operator, a hyper-optimiser, a network and a task outside the package, one file and one YAML each:
# the first two are audited, all are trained. Arguments go to bmo train, but for the task.
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
mine=(--config-dir "$here/example" "plugins=[$here/example/half_step.py,$here/example/averaged.py]")
"$here/bmo" audit "${mine[@]}" hyper=averaged
"$here/bmo" audit "${mine[@]}" gkm=half problem=strongly_convex
"$here/bmo" train "${mine[@]}" gkm=half hyper=averaged debug=tiny "$@"
"$here/bmo" train --config-dir "$here/example" "plugins=[$here/example/smoothing.py]" gkm=pg net=smoothing debug=tiny "$@"
"$here/bmo" train --config-dir "$here/example" "plugins=[$here/example/ridge.py]" task=ridge debug=tiny
