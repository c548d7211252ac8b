#!/bin/bash
# hpc-galaxy realism on 1 node. BSC MareNostrum 5, general purpose partition: 2 x Intel Xeon Platinum 8480+, 112 cores, 256 GB, InfiniBand NDR200
# Made by 'hpc-galaxy submit realism --site marenostrum5 --nodes 1 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# Other jobs on the node would take memory bandwidth and page cache (https://slurm.schedmd.com/sbatch.html)
#SBATCH --exclusive
# assumed: if Slurm counts hardware threads as CPUs, this makes them cores; otherwise it changes nothing
#SBATCH --threads-per-core=1
#SBATCH --job-name=hpc-galaxy-realism
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=112
#SBATCH --time=04:00:00
#SBATCH --account=ACCOUNT
#SBATCH --output=/path/to/run/jobs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -eo pipefail
cd /path/to/run

# The MPI that mpi4py and Horovod are built against here (https://github.com/BSC-CNS-EAPM/MN_bash_runners/blob/HEAD/run_files/marenostrumV/run_pele_v1.8.sh)
module load intel/2023.2.0 impi/2021.10.0

set -u
export OMP_NUM_THREADS=112
# srun no longer takes this from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-112}"

# Before the limit, or when the job has to make room, this script gets USR1. It ends the ranks;
# what was written is whole, and the job, queued again, does what is missing.
warned=0 interrupted=0
trap 'warned=1 interrupted=1; kill -TERM "$step" 2>/dev/null || true' USR1

# assumed: srun meets the MPI of the modules; ranks stay on their cores, and one that dies ends the others
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
srun --cpu-bind=cores --kill-on-bad-exit=1 \
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
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 100 ]; then
        echo "hpc-galaxy: stopped for the 100th time; not queued again (submit it again, with --restarts for more)" >&2
    else
        scontrol requeue "$SLURM_JOB_ID" && exit 0
    fi
fi
exit "$code"
