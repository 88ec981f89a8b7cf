#!/bin/bash
# Trains over the nodes of a Slurm job, one rank for every four cores, and goes on where an earlier job stopped:
#
#   sbatch docs/launch/slurm.sh
#
# Submit it as often as the run needs days: one job after the other goes on, and those that find it finished end at once.
#SBATCH --job-name=caravan
#SBATCH --dependency=singleton
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
# Ten minutes ahead of the limit all ranks stop after their step and save.
#SBATCH --signal=USR1@600
#SBATCH --output=caravan-%j.log
set -euo pipefail

# Built on a login node: `cargo build --release -p caravan-cli --features mpi`. On a file system that all nodes see, as is
# all that follows.
CARAVAN=${CARAVAN:-target/release/caravan}
RUN=${RUN:-runs/cluster}
TEXT=${TEXT:-text.txt}
# For a new run; one that goes on has them in its folder.
SETTINGS=${SETTINGS:-global_batch=64 micro_batch=4 zero_stage=1}

if [ -e "$RUN/report.md" ]; then
    echo "finished: $RUN/report.md"
    exit 0
fi
export RAYON_NUM_THREADS=$SLURM_CPUS_PER_TASK
ranks=(srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK"
    "$CARAVAN" train --transport mpi --ranks "$SLURM_NTASKS" --out "$RUN")
if [ -e "$RUN/config.toml" ]; then
    exec "${ranks[@]}" --resume
fi
# shellcheck disable=SC2086 # several words
exec "${ranks[@]}" --text "$TEXT" $SETTINGS
