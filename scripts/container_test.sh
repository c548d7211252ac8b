#!/usr/bin/env bash
# Build the CPU image from nothing and try it: who it runs as, what it holds, two ranks, another MPICH swapped in, the demo.
#
# usage: scripts/container_test.sh [OPTION OF podman build...]      (as root on Debian, with mmdebstrap, podman and buildah)
#        behind a mirror, for example: --volume /etc/pip.conf:/etc/pip.conf:ro --build-arg TORCH_INDEX=https://mirror/simple
#        BASE=image starts from that image. The default is a Debian made here, so that no registry of images is needed.
#        PYTHON=python3 is one with pip, to fetch the other MPICH.
#
# Isolation is by chroot: inside of virtual machines and containers 'podman run' often may not start at all.
set -euo pipefail
cd "$(dirname "$0")/.."

image=localhost/hpc-galaxy:test
python=${PYTHON:-.venv/bin/python}
# The version that Cray MPICH 8 is made from.
other_mpich=3.4.3.post1

fail() {
    echo "container-test: $1" >&2
    exit 1
}
say() { echo "container-test: $1 ($((SECONDS - start)) s)"; }
inside() { buildah run --isolation chroot "$container" -- "$@"; }

# Two ranks add through Horovod and MPI; both have to have loaded the one library that is named first, of the version named second.
# shellcheck disable=SC2016
ranks='
import sys
import torch, horovod.torch as hvd
from mpi4py import MPI
hvd.init()
total = hvd.allreduce(torch.ones(1000), op=hvd.Sum)
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "/libmpi.so" in line}
version = MPI.Get_library_version()
assert MPI.COMM_WORLD.size == hvd.size() == 2 and bool((total == 2).all()), (hvd.size(), total)
assert loaded == {sys.argv[1]}, loaded
assert f" {sys.argv[2]}\n" in version.replace("\t", " "), version
if hvd.rank() == 0: print("container-test: 2 ranks on MPICH", sys.argv[2], loaded)
'

for program in mmdebstrap podman buildah; do
    command -v "$program" >/dev/null || fail "$program is missing; on Debian: apt-get install mmdebstrap podman buildah"
done
[ "$(id -u)" = 0 ] || fail "run as root: chroot needs it"

work=$(mktemp -d)
container=
# shellcheck disable=SC2317
clean_up() {
    if [ -n "$container" ]; then buildah rm "$container" >/dev/null; fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
start=$SECONDS

if [ -z "${BASE:-}" ]; then
    BASE=localhost/hpc-galaxy-base:bookworm
    if ! podman image exists "$BASE"; then
        mmdebstrap --quiet --variant=minbase --include=python3,ca-certificates bookworm "$work/base.tar"
        podman import --quiet --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$work/base.tar" "$BASE"
        rm "$work/base.tar"
    fi
fi
say "base: $BASE, $(podman image inspect --format '{{.Size}}' "$BASE") bytes"

podman build --isolation chroot --network host --build-arg "BASE=$BASE" --build-arg "REVISION=$(git rev-parse HEAD)" \
    --file containers/Containerfile --tag "$image" "$@" .
say "image: $image, $(podman image inspect --format '{{.Size}}' "$image") bytes"

container=$(buildah from "$image")
[ "$(inside id -u)" != 0 ] || fail "the image runs as root"
inside sh -c '! { command -v cc || command -v g++ || command -v cmake; }' || fail "the image holds a compiler"
inside hpc-galaxy doctor

inside mpirun -n 2 python -c "$ranks" /opt/mpich/lib/libmpi.so.12 "$(sed -n 's/^ARG MPICH=//p' containers/Containerfile)"
"$python" -m pip install --quiet --disable-pip-version-check --ignore-installed --prefix "$work/host" "mpich==$other_mpich"
buildah run --isolation chroot --volume "$work/host/lib:/opt/host/lib:ro" --env LD_LIBRARY_PATH=/opt/host/lib "$container" -- \
    mpirun -n 2 python -c "$ranks" /opt/host/lib/libmpi.so.12 "${other_mpich%.post*}"
say "another MPICH can be swapped in"

inside hpc-galaxy demo demo 2>&1 | tee "$work/demo.log"
grep -q '^training: Horovod .*, 2 ranks' "$work/demo.log" || fail "the demo did not train with Horovod on 2 ranks"
grep -q '^demo: finished' "$work/demo.log" || fail "the demo did not finish"
say "passed"
