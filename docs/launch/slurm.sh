#!/bin/bash
# Trains over the nodes of a Slurm job: one rank for every 4 cores. Submit with `sbatch docs/launch/slurm.sh`.
#SBATCH --job-name=caravan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
# The whole job goes when one rank dies, so that the next line of the script can resume it.
#SBATCH --kill-on-bad-exit=1
set -euo pipefail

# Built once on a login node: `cargo build --release -p caravan-cli --features mpi`.
CARAVAN=${CARAVAN:-target/release/caravan}
# On a file system that all nodes see.
RUN=${RUN:-runs/cluster}
export RAYON_NUM_THREADS=${SLURM_CPUS_PER_TASK}

if [ -e "$RUN/config.toml" ]; then
    srun --mpi=pmix "$CARAVAN" train --transport mpi --resume --out "$RUN"
else
    srun --mpi=pmix "$CARAVAN" train --transport mpi --config configs/shakespeare.toml --text text.txt \
        --out "$RUN" global_batch=64 micro_batch=4 zero_stage=1
fi
