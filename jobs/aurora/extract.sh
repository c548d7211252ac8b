#!/bin/bash -l
# hpc-galaxy extract on 50 nodes. ALCF Aurora: 2 x Intel Xeon CPU Max, 104 cores of which jobs have 102, 1 TB and 128 GB HBM, HPE Slingshot; its 6 Intel GPUs are not used
# Made by 'hpc-galaxy submit extract --site aurora --nodes 50 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# Routes the job to a queue by its size; those cannot be named directly (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -q prod
# The job waits while one of these file systems is down; name only those that it uses (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -l filesystems=home:flare
# One chunk a node (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -l place=scatter
# The log is written where it belongs while the job runs, not copied at its end (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
#PBS -k doe
#PBS -N hpc-galaxy-extract
#PBS -l select=50
#PBS -l walltime=04:00:00
#PBS -A ACCOUNT
#PBS -j oe
#PBS -o /path/to/run/jobs/hpc-galaxy-extract.log
set -eo pipefail
cd /path/to/run

# The site's Python with PyTorch, and mpi4py on Aurora MPICH (https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/)
module load frameworks

# MPI carries host memory only; looking after GPUs costs time (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
export MPIR_CVAR_ENABLE_GPU=0

# numexpr refuses more threads than its own limit of 64, and would take all 208 hardware threads (https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/)
export NUMEXPR_NUM_THREADS=64

set -u
export OMP_NUM_THREADS=1

# Before the limit, or when the job has to make room, this script gets USR1. It ends the ranks;
# what was written is whole, and the job, started again, does what is missing.
# At the limit, and when the job is deleted, everything gets TERM.
warned=0
trap 'warned=1' USR1 TERM

echo "job ${PBS_JOBID:-}, $(date '+%F %T')"
# Cray's launcher (PALS) starts Aurora MPICH: so many ranks in all and on a node, each bound to as many cores as it has threads (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/)
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
mpiexec -n 5100 -ppn 102 --depth=${OMP_NUM_THREADS} --cpu-bind=depth \
    bash -c 'trap "" USR1; exec "$@"' hpc-galaxy \
    hpc-galaxy extract -c run.toml &
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
        kill -TERM "$step" 2>/dev/null || true
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
