#!/usr/bin/env bash
# half.sh train|xai ARGS: run python in that service's own conda environment where conda is, else in the one .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1; shift
python=.venv/bin/python
if [ "${GOWHY_NO_CONDA:-}" = "" ] && { command -v micromamba || command -v mamba || command -v conda; } >/dev/null 2>&1; then
  bash envs/setup.sh "$name" >&2
  python=.conda/gowhy-$name/bin/python
fi
exec "$python" "$@"
