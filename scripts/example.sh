#!/usr/bin/env bash
# An operator and a hyper-optimiser outside the package, one file and one YAML each: both are
# audited, then trained together. Arguments go to bmo train.
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
mine=(--config-dir "$here/example" "plugins=[$here/example/half_step.py,$here/example/averaged.py]")
"$here/bmo" audit "${mine[@]}" hyper=averaged
"$here/bmo" audit "${mine[@]}" gkm=half problem=strongly_convex
"$here/bmo" train "${mine[@]}" gkm=half hyper=averaged debug=tiny "$@"
