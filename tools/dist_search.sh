#!/usr/bin/env bash
# Usage: dist_search.sh CONFIG CHECKPOINT GPUS [options of search_sparsity.py]
# Environment variables: see dist_train.sh.
# All GPUs evaluate each candidate together.
set -euo pipefail
config=$1 checkpoint=$2 gpus=$3
shift 3
python -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/search_sparsity.py" "$config" "$checkpoint" --launcher pytorch "$@"
