#!/usr/bin/env bash
# Put MPICH beside the environment, for the tests of srun --mpi=pmi2 (the environment's own MPI is Open MPI).
# mpi4py's wheel speaks both: MPI4PY_MPIABI=mpich and LD_LIBRARY_PATH=DIRECTORY/lib choose this one.
#
# usage: scripts/set_up_mpich.sh DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$1 version=5.0.2

[ ! -e "$directory/lib/libmpi.so.12" ] || exit 0
# Both MPIs have a bin/mpirun, so they cannot be in one environment.
.venv/bin/python -m venv --without-pip --clear "$directory"
.venv/bin/python -m pip --disable-pip-version-check --python "$directory/bin/python" install -qq --no-deps "mpich==$version"
