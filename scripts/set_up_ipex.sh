#!/usr/bin/env bash
# Make or refresh a virtual environment with PyTorch 2.8 and intel-extension-for-pytorch 2.8, which want each other's version.
#
# usage: scripts/set_up_ipex.sh VENV       (PYTHON=/path/to/python3 chooses the Python: 3.11, 3.12 or 3.13, on x86-64)
#
# It downloads 3.5 GB, though nothing of it runs on a GPU: PyPI has PyTorch 2.8 for Linux on x86-64 with CUDA alone, and that does
# not load without most of NVIDIA's libraries.
set -euo pipefail

cd "$(dirname "$0")/.."
venv=$1
version=2.8.0
need_gb=11

fail() {
    echo "set-up of ipex: $1" >&2
    exit 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "intel-extension-for-pytorch is for Linux on x86-64, and this is $(uname -sm)"

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(command -v "${PYTHON:-python3.11}") || fail "no ${PYTHON:-python3.11}; name one: PYTHON=/path/to/python3.11 $0 $venv"
    echo "set-up of ipex: making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" || fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }
has() { "$venv/bin/python" -c 'import sys; from importlib.metadata import version; sys.exit(version(sys.argv[1]) != sys.argv[2])' "$@" 2>/dev/null; }

start=$SECONDS
if ! has intel-extension-for-pytorch "$version"; then
    free_gb=$(df --output=avail -BG "$venv" | tail -n 1 | tr -dc 0-9)
    [ "$free_gb" -ge "$need_gb" ] || fail "$need_gb GB of disk are needed for a while, 7 GB for good; $venv has $free_gb GB"
    echo "set-up of ipex: installing PyTorch $version with the CUDA libraries without which it does not load (3.5 GB)"
    # What torch asks for, less what it loads: triton, and the libraries that only a GPU's user would reach.
    pip install --no-deps --no-cache-dir "torch==$version" \
        nvidia-cublas-cu12==12.8.4.1 nvidia-cuda-cupti-cu12==12.8.90 nvidia-cuda-runtime-cu12==12.8.90 \
        nvidia-cudnn-cu12==9.10.2.21 nvidia-cufft-cu12==11.3.3.83 nvidia-cufile-cu12==1.13.1.3 nvidia-curand-cu12==10.3.9.90 \
        nvidia-cusparse-cu12==12.5.8.93 nvidia-cusparselt-cu12==0.7.1 nvidia-nccl-cu12==2.27.3 nvidia-nvjitlink-cu12==12.8.93
    # Last, because its presence says that all is there.
    pip install --no-deps "intel-extension-for-pytorch==$version"
fi

echo "set-up of ipex: installing the other packages of requirements.lock"
# Without --no-deps pip would complain about the libraries that were left out. The package itself is used where it stands: its
# compiled parts are those of the main environment.
grep -vE '^(torch==|#)' requirements.lock | pip install --no-deps -r /dev/stdin
OMP_NUM_THREADS=1 "$venv/bin/python" -c 'import intel_extension_for_pytorch' >/dev/null 2>&1 || fail "intel-extension-for-pytorch cannot be imported"
echo "set-up of ipex: done in $((SECONDS - start)) s; $(du -sh "$venv" | cut -f 1) in $venv"
