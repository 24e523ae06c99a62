#!/usr/bin/env bash
# Resolve envs/pip/*.txt from envs/pip/*.in: full closures with hashes, without index or find-links lines, without torch.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3; [ -x .venv/bin/python ] && python=.venv/bin/python
command -v uv >/dev/null || { echo "error: uv is needed. python -m pip install uv" >&2; exit 69; }
for name in train xai dev bench ray; do
  uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
    --no-emit-package torch --output-file "envs/pip/$name.txt" "envs/pip/$name.in"
done
"$python" envs/locks_check.py --write .txt
# The conda locks only where conda-lock, a solver for it and the channel are there; locks-check then tells what is old.
solver=$(command -v micromamba || command -v mamba || command -v conda || true)
if command -v conda-lock >/dev/null && [ -n "$solver" ]; then
  for name in train xai; do
    conda-lock lock --conda "$solver" --without-cuda --platform linux-64 -f "envs/$name.yml" -f envs/dev.yml --lockfile "envs/$name.lock.yml"
    conda-lock lock --conda "$solver" --with-cuda 12.9 --platform linux-64 -f "envs/$name-cuda.yml" -f envs/dev.yml --lockfile "envs/$name-cuda.lock.yml"
  done
  "$python" envs/locks_check.py --write .yml
else
  echo "conda locks left as they are: conda-lock and one of micromamba, mamba, conda are needed" >&2
fi
