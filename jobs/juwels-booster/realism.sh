#!/bin/bash
# hpc-galaxy realism on 1 node. JSC JUWELS Booster: 2 x AMD EPYC 7402, 48 cores, 512 GB, 4 x NVIDIA A100 40 GB, 4 x InfiniBand HDR200
# Made by 'hpc-galaxy submit realism --site juwels-booster --nodes 1 --time 04:00:00 -c /path/to/run/run.toml --account ACCOUNT'
# The nodes with A100 (https://apps.fz-juelich.de/jsc/hps/juwels/batchsystem.html)
#SBATCH --partition=booster
# All GPUs of a node; nodes are not shared (https://apps.fz-juelich.de/jsc/hps/juwels/batchsystem.html)
#SBATCH --gres=gpu:4
# CPUs are hardware threads to Slurm; this makes them cores (JSC says so for all of its machines since Slurm 22.05) (https://apps.fz-juelich.de/jsc/hps/jureca/affinity.html)
#SBATCH --threads-per-core=1
#SBATCH --job-name=hpc-galaxy-realism
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --time=04:00:00
#SBATCH --account=ACCOUNT
#SBATCH --output=/path/to/run/jobs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -eo pipefail
cd /path/to/run

# MPI and an mpi4py built against it; the stage is given, since the default one changes every year (https://github.com/FZJ-JSC/jubench-megatron-lm/blob/HEAD/benchmark/env/activate.bash)
module load Stages/2024 GCC/12.3.0 OpenMPI/4.1.5 Python/3.11.3 mpi4py/3.1.4

# PyTorch and NCCL as the site builds them, for A100 and for its InfiniBand (https://github.com/FZJ-JSC/jubench-megatron-lm/blob/HEAD/benchmark/env/activate.bash)
module load CUDA/12 NCCL/default-CUDA-12 PyTorch/2.1.2

# By default the site shows a rank its own GPU only; ours takes the one of its number, and NCCL wants to see its neighbours (https://github.com/FZJ-JSC/jubench-megatron-lm/blob/HEAD/benchmark/slurm/jobscript_13B.sbatch)
export CUDA_VISIBLE_DEVICES=0,1,2,3

# The same for MPI, which goes over UCX (https://github.com/FZJ-JSC/jubench-megatron-lm/blob/HEAD/benchmark/slurm/jobscript_13B.sbatch)
export UCX_RC_TIMEOUT=4s

set -u
export OMP_NUM_THREADS=48
# srun no longer takes this from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-48}"

# Before the limit, or when the job has to make room, this script gets USR1. It ends the ranks;
# what was written is whole, and the job, started again, does what is missing. Then the job is queued again.
# At the limit itself, and when the job is cancelled, everything gets TERM, and KILL some seconds later.
warned=0 ended=0
trap 'warned=1' USR1
trap 'ended=1' TERM

echo "job ${SLURM_JOB_ID:-}, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date '+%F %T'), on ${SLURM_JOB_NODELIST:-}"
# srun alone meets the MPI of the modules; one hardware thread a core, so that threads do not share cores; one rank that dies ends the others (https://apps.fz-juelich.de/jsc/hps/jureca/affinity.html)
# A signal that comes before Python is ready must not kill a rank: it is ignored until then.
srun --threads-per-core=1 --kill-on-bad-exit=1 \
    bash -c 'trap "" USR1; exec "$@"' hpc-galaxy \
    hpc-galaxy realism -c run.toml &
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
