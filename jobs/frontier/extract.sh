#!/bin/bash
# hpc-galaxy extract on 50 nodes. OLCF Frontier: AMD EPYC, 64 cores of which jobs have 56, 512 GB, 4 x AMD MI250X that are 8 GPUs, HPE Slingshot
# Made by 'hpc-galaxy submit extract --site frontier --nodes 50 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# The partition of production jobs (https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html)
#SBATCH --partition=batch
#SBATCH --job-name=hpc-galaxy-extract
#SBATCH --nodes=50
#SBATCH --ntasks-per-node=56
#SBATCH --cpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --account=ACCOUNT
#SBATCH --output=/path/to/run/jobs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -eo pipefail
cd /path/to/run

# The compilers and the MPI that mpi4py is built against here: MPICC="cc -shared" pip install --no-binary=mpi4py mpi4py (https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html)
module load PrgEnv-gnu/8.7.0 cpe/26.03

# Needed with a programming environment (cpe) other than the default, or the default's MPI is found (https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html)
export LD_LIBRARY_PATH="${CRAY_LD_LIBRARY_PATH:-}:${LD_LIBRARY_PATH:-}"

set -u
export OMP_NUM_THREADS=1
# srun no longer takes this from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

# Before the limit, or when the job has to make room, this script gets USR1. It ends the ranks;
# what was written is whole, and the job, queued again, does what is missing.
warned=0 interrupted=0
trap 'warned=1 interrupted=1; kill -TERM "$step" 2>/dev/null || true' USR1

# OLCF asks for srun rather than torchrun, which ignores where cores and GPUs are; one rank that dies ends the others (https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html)
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
srun --cpu-bind=cores --kill-on-bad-exit=1 \
    bash -c 'trap "" USR1; exec "$@"' hpc-galaxy \
    hpc-galaxy extract -c run.toml &
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
