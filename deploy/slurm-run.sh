#!/bin/bash
# Run a command of this project on Ray over the nodes of one Slurm job. From the checkout, with the
# environment in .venv:
#
#   sbatch --nodes 16 deploy/slurm-run.sh pipelines run mine.yaml --input s3://... --out s3://...
#   scancel JOB                                tear down (the job's end does it too)
#
# The command gets `--cluster ADDRESS` at its end. Input and output must be seen by all nodes: a shared
# folder or s3://. Was the time too short? The same sbatch again goes on where it stopped.

#SBATCH --job-name=curation
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log

set -euo pipefail
source .venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1

# Only those who know the token may use the cluster; it lies in the home folder that nodes share.
export RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))
options="--object-store-memory=2000000000 --block"

srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" \
    bash -c "ray start --head --node-ip-address=$head --port=$port \
        --dashboard-port=$((port + 1)) $options" &
for try in $(seq 60); do
    ray health-check --address "$head:$port" 2>/dev/null && break
    [ "$try" -lt 60 ] || { echo "Ray did not start on $head:$port; see above" >&2; exit 1; }
    sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --overlap --exclude="${nodes[0]}" \
        bash -c "ray start --address=$head:$port $options" &
fi

"$@" --cluster "$head:$port"
