#!/bin/bash -l
# hpc-galaxy realism on 1 node. ALCF Aurora: 2 x Intel Xeon CPU Max, 104 cores of which jobs have 102, 1 TB and 128 GB HBM, HPE Slingshot; its 6 Intel GPUs are not used
# Made by 'hpc-galaxy submit realism --site aurora --nodes 1 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# Routes the job to a queue by its size; those cannot be named directly (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -q prod
# The job waits while one of these file systems is down; name only those that it uses (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -l filesystems=home:flare
# One chunk a node (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -l place=scatter
# The log is written where it belongs while the job runs, not copied at its end (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -k doe
#PBS -N hpc-galaxy-realism
#PBS -l select=1
#PBS -l walltime=04:00:00
#PBS -A ACCOUNT
#PBS -j oe
#PBS -o /path/to/run/jobs/hpc-galaxy-realism.log
set -eo pipefail
cd /path/to/run

# The site's Python with PyTorch, and mpi4py on Aurora MPICH (https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/)
module load frameworks

# MPI carries host memory only; looking after GPUs costs time (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
export MPIR_CVAR_ENABLE_GPU=0

# numexpr refuses more threads than its own limit of 64, and would take all 208 hardware threads (https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/)
export NUMEXPR_NUM_THREADS=64

set -u
export OMP_NUM_THREADS=102

# Before the limit, or when the job has to make room, this script gets USR1. It ends the ranks;
# what was written is whole, and the job, queued again, does what is missing.
warned=0 interrupted=0
trap 'warned=1 interrupted=1; kill -TERM "$step" 2>/dev/null || true' USR1

# Cray's launcher (PALS) starts Aurora MPICH: so many ranks in all and on a node, each bound to as many cores as it has threads (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
mpiexec -n 1 -ppn 1 --depth=${OMP_NUM_THREADS} --cpu-bind=depth \
    bash -c 'trap "" USR1; exec "$@"' hpc-galaxy \
    hpc-galaxy realism -c run.toml &
step=$!

code=0
while :; do
    interrupted=0 ended=0
    wait "$step" || ended=$?
    [ "$ended" = 127 ] || code=$ended # 127: it had been waited for already
    [ "$interrupted" = 1 ] || break   # a signal ends the waiting, not the ranks
done

if [ "$code" -ne 0 ] && { [ "$code" = 75 ] || [ "$warned" = 1 ]; }; then
    echo "hpc-galaxy: stopped before its end; submit this script again, and it continues" >&2
fi
exit "$code"
