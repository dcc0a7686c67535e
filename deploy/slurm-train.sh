#!/bin/bash
# Train one model on Slurm. From the checkout, with the environment in .venv:
#
#   sbatch deploy/slurm-train.sh --scale 1b-1x --packed /shared/packed --out /shared/model
#   sbatch deploy/slurm-train.sh datacomp --scale medium --data /shared/packed --out /shared/model
#
# All arguments go to `dclm train`, or behind the word `datacomp` to `datacomp train`. --out and
# --packed must be seen by all nodes (--packed may be on S3). Say first what it needs:
# dclm plan --scale 1b-1x --gpus 16 --packed /shared/packed
#
# The training is longer than the time limit? It is an array of jobs, one after the other: before
# its time is over each writes a checkpoint, and the next goes on from there. When the model is
# finished the rest end at once. The number of nodes may be changed between them. (`datacomp train`
# goes on behind its last finished twentieth: give a job the time for one.)

#SBATCH --job-name=dclm-train
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --array=1-8%1
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%A-%a.log

set -euo pipefail
source .venv/bin/activate

benchmark=dclm
if [[ ${1:-} == dclm || ${1:-} == datacomp ]]; then
    benchmark=$1
    shift
fi

# What torchrun would set. One process for each GPU, started by Slurm itself, so that its SIGTERM
# arrives in the training, which has five minutes for a checkpoint.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
WORLD_SIZE=$SLURM_NTASKS
LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
OMP_NUM_THREADS=1
export MASTER_ADDR MASTER_PORT WORLD_SIZE LOCAL_WORLD_SIZE OMP_NUM_THREADS

srun --kill-on-bad-exit=1 bash -c \
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$0" train "$@"' "$benchmark" "$@"
