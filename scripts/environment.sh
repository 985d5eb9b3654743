# Sourced by the scripts here: makes .venv of pinned versions when it is missing or out of date.
# Sets `root` (the checkout) and `venv`. PYTHON chooses the interpreter (3.11 or newer).
# Running needs the package alone. A script that tests or documents sets `tools=dev` before.
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
venv=$root/.venv
wanted=$(echo "$root" | cat - "$root/pyproject.toml" "$root/scripts/constraints.txt" "$root/bmo_cli/__init__.py" | cksum)

tools=${tools:-}

environment_is_current() {
    case $(cat "$venv/bmo-stamp" 2>/dev/null) in
        "$wanted dev") ;;
        "$wanted ") [ -z "$tools" ] ;;
        *) return 1 ;;
    esac
}

# The default build of torch for Linux includes CUDA.
warn_of_cuda() {
    [ "$(uname -s)" = Linux ] && [ -z "${PIP_EXTRA_INDEX_URL:-}${PIP_INDEX_URL:-}" ] || return 0
    "$venv/bin/python" -c 'import torch' 2>/dev/null ||
        echo "bmo: the default build of torch for Linux includes CUDA, several GB; for the smaller CPU build press Ctrl-C" \
            "and set PIP_EXTRA_INDEX_URL to the index of CPU builds on pytorch.org/get-started" >&2
}

make_environment() {
    local python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "bmo: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3" >&2
        return 1
    }
    echo "bmo: installing pinned versions into $venv (once; a few minutes, torch is large)" >&2
    "$python" -m venv "$venv" && warn_of_cuda &&
        PIP_CONSTRAINT=$root/scripts/constraints.txt "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --editable "$root${tools:+[$tools]}" >&2 &&
        echo "$wanted $tools" >"$venv/bmo-stamp" &&
        echo "bmo: environment ready" >&2
}

# Several jobs may start at once on a fresh machine: one installs, the others wait for it.
until environment_is_current; do
    if mkdir "$root/.venv-lock" 2>/dev/null; then
        trap 'rmdir "$root/.venv-lock" 2>/dev/null' EXIT
        environment_is_current || make_environment || {
            echo "bmo: the environment could not be made; see the messages above" >&2
            exit 1
        }
        rmdir "$root/.venv-lock" 2>/dev/null || true
        trap - EXIT
    elif [ ! -d "$root/.venv-lock" ] && [ ! -w "$root" ]; then
        echo "bmo: $root cannot be written, so no environment can be made there" >&2
        exit 1
    else
        echo "bmo: another process is installing (if none is: rmdir $root/.venv-lock)" >&2
        sleep 5
    fi
done
