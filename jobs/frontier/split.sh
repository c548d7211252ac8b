#!/bin/bash
# hpc-galaxy split on 4 nodes. OLCF Frontier: AMD EPYC, 64 cores of which jobs have 56, 512 GB, 4 x AMD MI250X that are 8 GPUs, HPE Slingshot
# Made by 'hpc-galaxy submit split --site frontier --nodes 4 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# The partition of production jobs (https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html)
#SBATCH --partition=batch
#SBATCH --job-name=hpc-galaxy-split
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=28
#SBATCH --cpus-per-task=2
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
export OMP_NUM_THREADS=2
# srun no longer takes this from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-2}"

# Before the limit, or when the job has to make room, this script gets USR1. It ends the ranks;
# what was written is whole, and the job, started again, does what is missing. Then the job is queued again.
# At the limit itself, and when the job is cancelled, everything gets TERM, and KILL some seconds later.
warned=0 ended=0
trap 'warned=1' USR1
trap 'ended=1' TERM

echo "job ${SLURM_JOB_ID:-}, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date '+%F %T'), on ${SLURM_JOB_NODELIST:-}"
# OLCF asks for srun rather than torchrun, which ignores where cores and GPUs are; one rank that dies ends the others (https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html)
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
srun --cpu-bind=cores --kill-on-bad-exit=1 \
    bash -c 'trap "" USR1; exec "$@"' hpc-galaxy \
    hpc-galaxy split -c run.toml &
step=$!

# A signal ends the waiting, not the ranks. The warning is repeated until they are gone, since the first may have come too early.
code=127
collect() {
    local status=0
    wait "$step" || status=$?
    [ "$status" = 127 ] || code=$status # 127: it has been collected before
}
state=
ask_state() {
    [ "$ended" = 0 ] || state=$(scontrol --oneliner show job "$SLURM_JOB_ID" | grep -o 'JobState=[A-Z_]* Reason=[A-Za-z]*' || true)
    ended=0
}
collect
while kill -0 "$step" 2>/dev/null; do
    ask_state
    case $state in *TimeLimit | *COMPLETING* | *CANCELLED*) break ;; esac # there is no time to wait for the ranks
    if [ "$warned" = 1 ]; then
        kill -TERM "$step" 2>/dev/null || true
        sleep 2 || true # TERM ends it as well
    else
        collect
    fi
done

# What has not come to its end is queued again: stopped by a signal with everything saved (75), by a rank or a node that has fallen silent
# (76; Slurm itself may take minutes to miss it), after the warning, or at the limit.
again=0
ask_state
case $state in
*TimeLimit) again=1 ;;
*COMPLETING* | *CANCELLED*) ;; # by the user
*)
    collect
    case $code in
    0) ;;
    75 | 76) again=1 ;;
    *)
        again=$warned
        # A lost node looks like any failure at first: Slurm may take minutes to miss it.
        timeout 120 srun --overlap --mpi=none --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --ntasks="$SLURM_JOB_NUM_NODES" true || again=1
        ;;
    esac
    ;;
esac
if [ "$again" = 1 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 100 ]; then
        echo "hpc-galaxy: queued again 100 times already; not once more (submit it again, with --restarts for more)" >&2
    else
        scontrol requeue "$SLURM_JOB_ID" && exit 0
    fi
fi
exit "$code"
