#!/usr/bin/env bash
# Make the virtual environment VENV: torch first (TORCH=cpu|cuda), then cadp with everything at its pinned version.
# Usage: TORCH=cpu TORCH_VERSION=2.13.0 [TORCH_INDEX=URL] [PYTHON=python3.11] infra/setup.sh VENV
# Run from the root of the checkout; writes to VENV alone. Run again after an interruption, it makes good.
set -euo pipefail

venv=${1:?the folder of the environment}
torch=${TORCH:-cpu} version=${TORCH_VERSION:?the version of torch} index=${TORCH_INDEX:-}
# Lies in VENV while a command works on it. If it is there at the start, that command was cut off in the middle of
# something: pip would take a package half unpacked for an installed one.
cut=$venv/unfinished
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# Downloads are kept beside the environment until it is complete, never in the user's own cache.
export PIP_CACHE_DIR="$PWD/$venv/cache" PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONNOUSERSITE=1
# pip asks rustc for its version, and rustup's would make a folder in an empty home.
[ -e "${HOME:-/nonexistent}/.rustup" ] || export RUSTUP_HOME="${RUSTUP_HOME:-$PIP_CACHE_DIR/rustup}"
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX

fail() {
    echo "setup: $*" >&2
    exit 1
}

# stage TITLE COMMAND…: one line with its seconds; what the command said only if it fails.
stage() {
    local title=$1 began=$SECONDS
    shift
    printf '  %-40s' "$title"
    mkdir -p "$venv" && touch "$cut"
    if "$@" >"$log" 2>&1; then
        rm -f "$cut"
        printf '%4d s\n' $((SECONDS - began))
    else
        rm -f "$cut"
        printf 'failed\n'
        tail -n 25 "$log" >&2
        fail "$title failed; what it said last stands above"
    fi
}

pip() { "$venv/bin/python" -m pip --quiet "$@"; }

fits() {
    "$1" -c 'import ensurepip, venv, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# The first interpreter on the PATH that works: one that belongs to another user, or lacks venv, is passed over.
find_python() {
    local candidate
    for candidate in ${PYTHON:-$(type -ap python3.11 python3)}; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "${PYTHON:-what the PATH has} is not Python 3.11 to 3.13 with venv: install one or pass PYTHON=…"
}

make_environment() {
    if [ "$2" = cut ] || ! "$venv/bin/python" -m pip --version; then
        find "$venv" -mindepth 1 -maxdepth 1 ! -name cache ! -name unfinished -exec rm -rf {} +
        "$1" -m venv "$venv"
    fi
}

install_torch() {
    local from=()
    [ -z "$index" ] || from=(--index-url "$index")
    if [ "$torch" = cpu ] && pip install -c infra/constraints.txt ${from[@]+"${from[@]}"} "torch==$version+cpu"; then
        return
    fi
    if [ "$torch" = cpu ] && [ -z "$index" ]; then
        echo "no CPU build of torch $version is found: pass TORCH_INDEX=URL, an index that has it, or TORCH=cuda"
        return 1
    fi
    # A CPU build left from another set-up would satisfy the version.
    if [ "$torch" = cuda ] && ! check_torch; then pip uninstall --yes torch; fi
    pip install -c infra/constraints.txt ${from[@]+"${from[@]}"} "torch==$version"
}

check_torch() {
    "$venv/bin/python" - "$torch" <<'PYTHON'
import sys

try:
    import torch
except ImportError:
    sys.exit("torch is not installed")
built = "cpu" if torch.version.cuda is None else "cuda"
if built != sys.argv[1]:
    sys.exit(f"torch {torch.__version__} is a {built} build: pass TORCH_INDEX=URL, an index with {sys.argv[1]} builds")
PYTHON
}

install_cadp() { pip install -c infra/constraints.txt -e '.[release,flows,s3,postgres,dev]'; }

check_all() { "$venv/bin/python" -m pip check; }

case $torch in cpu | cuda) ;; *) fail "TORCH=$torch: cpu or cuda" ;; esac
python=$(find_python)
state=whole
[ ! -e "$cut" ] || state=cut
stage "environment ($("$python" --version 2>&1))" make_environment "$python" $state
stage "torch $version ($torch)" install_torch
stage "torch imports" check_torch
stage "cadp and its libraries" install_cadp
stage "libraries agree" check_all
rm -rf "$PIP_CACHE_DIR"
