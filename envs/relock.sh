#!/usr/bin/env bash
# Resolve envs/pip/*.txt from envs/pip/*.in: full closures with hashes, without index or find-links lines, without torch.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "error: uv is needed. python -m pip install uv" >&2; exit 69; }
for name in train xai dev bench ray; do
  uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
    --no-emit-package torch --output-file "envs/pip/$name.txt" "envs/pip/$name.in"
done
