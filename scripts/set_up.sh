#!/usr/bin/env bash
# Make or refresh the virtual environment of this checkout.
#
# usage: scripts/set_up.sh VENV       (PYTHON=/path/to/python3 chooses the Python; Horovod is a step of its own)
set -euo pipefail

cd "$(dirname "$0")/.."
venv=$(readlink -m "$1") # a link leads to where there is room

fail() {
    echo "set-up: $1" >&2
    exit 1
}

# Print the first Python that is new enough.
find_python() {
    local candidate found=
    for candidate in ${PYTHON:-python3.11 python3}; do
        command -v "$candidate" >/dev/null || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        found="; $candidate is $("$candidate" --version 2>&1 || true)"
    done
    fail "Python 3.11 or newer is needed$found. Install it, or name one: make PYTHON=/path/to/python3.11 ..."
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "set-up: making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" || fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }

start=$SECONDS
# Whoever changes the project's own settings need not wait for pip to look at a hundred packages.
if ! cmp -s requirements.lock "$venv/.requirements.lock"; then
    echo "set-up: installing the packages of requirements.lock (some minutes, mostly torch)"
    pip install -r requirements.lock
    cp requirements.lock "$venv/.requirements.lock"
fi
pip install --no-deps --no-build-isolation -e .
"$venv/bin/python" -c 'import sys; from hpc_galaxy.bricks import tiles; sys.exit(not tiles.COMPILED)' ||
    echo "set-up: without a C compiler and Python's headers coadds are read by fitsio, several times slower; on Debian: apt-get install gcc python3-dev"
echo "set-up: packages installed in $((SECONDS - start)) s"
