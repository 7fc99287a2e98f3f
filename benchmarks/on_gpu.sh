#!/usr/bin/env bash
# All that needs a GPU, in at most eight minutes, on a machine that may reach no package registry:
#   OUT=FOLDER bash benchmarks/on_gpu.sh [--data ptb=DIR] [--only TEXT] [--done FILE] [--seconds N] [--cpu]
# The packages have to be on PYTHONPATH already; benchmarks/README.md says which. Results: FOLDER/on-gpu.json.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.on_gpu "$@"
