#!/bin/bash
# hpc-galaxy split on 4 nodes. NERSC Perlmutter, CPU nodes: 2 x AMD EPYC 7763, 128 cores, 512 GB, HPE Slingshot
# Made by 'hpc-galaxy submit split --site perlmutter-cpu --nodes 4 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# Perlmutter has two kinds of nodes, a job names one (https://github.com/NERSC/Migrate-to-Perlmutter/blob/HEAD/CPU/run-xthi-pm.sh)
#SBATCH --constraint=cpu
# For production; a job that names none goes to debug (https://docs.nersc.gov/jobs/policy/)
#SBATCH --qos=regular
# Slurm counts hyperthreads as CPUs here: without this a rank would get half of the cores it is meant to have (https://slurm.schedmd.com/sbatch.html)
#SBATCH --threads-per-core=1
#SBATCH --job-name=hpc-galaxy-split
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=32
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --account=ACCOUNT
#SBATCH --output=/path/to/run/jobs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -eo pipefail
cd /path/to/run

# The MPI that mpi4py and Horovod are built against here: MPICC="cc -shared" pip install --no-binary=mpi4py mpi4py (https://libensemble.readthedocs.io/en/latest/platforms/perlmutter.html)
module load PrgEnv-gnu cray-mpich

# The default modules turn it on, and then an mpi4py without Cray's GPU layer aborts in MPI_Init; there is no GPU here (https://docs.nersc.gov/development/compilers/wrappers/#set-the-accelerator-target-to-gpus-for-cuda-aware-mpi-on-perlmutter)
export MPICH_GPU_SUPPORT_ENABLED=0

# What NERSC's own training examples run with: opening HDF5 files over the network may fail for want of a lock; each of our files has one writer (https://github.com/NERSC/sc23-dl-tutorial/blob/HEAD/submit_pm_dp.sh)
export HDF5_USE_FILE_LOCKING=FALSE

set -u
export OMP_NUM_THREADS=4
# srun no longer takes this from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-4}"

# Before the limit, or when the job has to make room, this script gets USR1. It ends the ranks;
# what was written is whole, and the job, queued again, does what is missing.
warned=0 interrupted=0
trap 'warned=1 interrupted=1; kill -TERM "$step" 2>/dev/null || true' USR1

# mpi4py is built against Cray MPICH, which meets through Cray's PMI; ranks stay on their cores, and one that dies ends the others (https://slurm.schedmd.com/srun.html)
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
srun --mpi=cray_shasta --cpu-bind=cores --kill-on-bad-exit=1 \
    bash -c 'trap "" USR1; exec "$@"' hpc-galaxy \
    hpc-galaxy split -c run.toml &
step=$!

code=0
while :; do
    interrupted=0 ended=0
    wait "$step" || ended=$?
    [ "$ended" = 127 ] || code=$ended # 127: it had been waited for already
    [ "$interrupted" = 1 ] || break   # a signal ends the waiting, not the ranks
done

if [ "$code" -ne 0 ] && { [ "$code" = 75 ] || [ "$warned" = 1 ]; }; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 100 ]; then
        echo "hpc-galaxy: stopped for the 100th time; not queued again (submit it again, with --restarts for more)" >&2
    else
        scontrol requeue "$SLURM_JOB_ID" && exit 0
    fi
fi
exit "$code"
