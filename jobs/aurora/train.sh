#!/bin/bash -l
# hpc-galaxy train on 64 nodes. ALCF Aurora: 2 x Intel Xeon CPU Max, 104 cores of which jobs have 102, 1 TB and 128 GB HBM, HPE Slingshot; its 6 Intel GPUs are not used
# Made by 'hpc-galaxy submit train --site aurora --nodes 64 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# Routes the job to a queue by its size; those cannot be named directly (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -q prod
# The job waits while one of these file systems is down; name only those that it uses (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -l filesystems=home:flare
# One chunk a node (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -l place=scatter
# The log is written where it belongs while the job runs, not copied at its end (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -k doe
#PBS -N hpc-galaxy-train
#PBS -l select=64
#PBS -l walltime=04:00:00
#PBS -A ACCOUNT
#PBS -j oe
#PBS -o /path/to/run/jobs/hpc-galaxy-train.log
set -eo pipefail
cd /path/to/run

# The site's Python with PyTorch, and mpi4py on Aurora MPICH (https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/)
module load frameworks

# MPI carries host memory only; looking after GPUs costs time (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
export MPIR_CVAR_ENABLE_GPU=0

# Beyond 16 nodes the network cards' completion queues overflow with the default size (https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/)
export FI_CXI_DEFAULT_CQ_SIZE=131072

# numexpr refuses more threads than its own limit of 64, and would take all 208 hardware threads (https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/)
export NUMEXPR_NUM_THREADS=64

set -u
export OMP_NUM_THREADS=17

# Before the limit, or when the job has to make room, this script gets USR1. It passes that on to the
# ranks, which save together and leave with exit code 75.
# At the limit, and when the job is deleted, everything gets TERM.
warned=0
trap 'warned=1' USR1 TERM

echo "job ${PBS_JOBID:-}, $(date '+%F %T')"
# Cray's launcher (PALS) starts Aurora MPICH: so many ranks in all and on a node, each bound to as many cores as it has threads (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
mpiexec -n 384 -ppn 6 --depth=${OMP_NUM_THREADS} --cpu-bind=depth \
    bash -c 'trap "" USR1; exec "$@"' hpc-galaxy \
    hpc-galaxy train -c run.toml &
step=$!

# A signal ends the waiting, not the ranks. The warning is repeated until they are gone, since the first may have come too early.
code=127
collect() {
    local status=0
    wait "$step" || status=$?
    [ "$status" = 127 ] || code=$status # 127: it has been collected before
}
collect
while kill -0 "$step" 2>/dev/null; do
    if [ "$warned" = 1 ]; then
        kill -USR1 "$step" 2>/dev/null || true
        sleep 2 || true # TERM ends it as well
    else
        collect
    fi
done
collect

if [ "$code" -ne 0 ] && { [ "$code" = 75 ] || [ "$warned" = 1 ]; }; then
    echo "hpc-galaxy: stopped before its end; submit this script again, and it continues" >&2
fi
exit "$code"
