#!/usr/bin/env bash
# Make an environment: from its conda lock where micromamba, mamba or conda is present, else a venv.
# setup.sh [dev|train|xai]: dev is .venv; the others are .conda/gowhy-NAME, or .venvs/NAME.
# Idempotent: does nothing when the environment was made from the present lock. .venv/bin/python exists afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-dev}
requirements=envs/pip/$name.txt
torch_version=2.13.0
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
# The tests need both services: dev is the train lock, and what pip adds to it is envs/pip/dev.txt.
lock_name=$name; [ "$name" != dev ] || lock_name=train
[ "${GOWHY_CUDA:-}" = "" ] || lock_name=$lock_name-cuda
venv=.venv; [ "$name" = dev ] || venv=.venvs/$name

sha256() { "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"; }
recorded() { "$python" -c 'import json, sys; r = json.load(open(sys.argv[1])); e = r.get("extra"); print(r["name"], r["sha256"], *((e["name"], e["sha256"]) if e else ()))' "$1/share/gowhy/env_lock.json" 2>/dev/null || true; }

"$python" - <<'PY' || exit 1
import sys
if sys.version_info[:2] != (3, 11):
    sys.exit(f"error: Python 3.11 is needed, this is {sys.version.split()[0]}. Set PYTHON=/path/to/python3.11")
PY

conda=""
if [ "${GOWHY_NO_CONDA:-}" = "" ]; then
  for candidate in micromamba mamba conda; do
    command -v "$candidate" >/dev/null 2>&1 && conda=$candidate && break
  done
fi

if [ -n "$conda" ]; then
  lock=envs/$lock_name.lock.yml
  prefix=.conda/gowhy-$name
  if [ "$(recorded "$prefix")" != "$lock_name $(sha256 "$lock") $name $(sha256 "$requirements")" ]; then
    mkdir -p .conda && rm -rf "$prefix"  # an interrupted try is not a conda prefix that the tools accept
    if [ "$conda" = micromamba ]; then
      # It reads a conda-lock file only under a name that ends in -lock.yml.
      cp "$lock" ".conda/$name-lock.yml"
      "$conda" create -y -p "$prefix" -f ".conda/$name-lock.yml"
    else
      "$python" envs/explicit.py "$lock" > ".conda/$name-explicit.txt"
      "$conda" create -y -p "$prefix" --file ".conda/$name-explicit.txt"
    fi
    # What the lock has no record of comes from the hashed files.
    "$prefix/bin/python" envs/missing.py "$lock" "$requirements" > ".conda/$name-extra.txt"
    "$prefix/bin/python" -m pip install --quiet --no-deps --require-hashes -r ".conda/$name-extra.txt"
    "$prefix/bin/python" -m shared.env record "$lock_name" --kind conda --extra "$name" --prefix "$prefix"
  fi
  [ "$name" != dev ] || { [ -e .venv ] && [ ! -L .venv ]; } || ln -sfn "$prefix" .venv
  made=$prefix
elif [ "$(recorded "$venv")" != "$name $(sha256 "$requirements")" ]; then
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  # torch first and by version: the CPU wheel of one machine and the index's wheel are different files, so no hash fits both.
  if ! "$venv/bin/python" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$torch_version')" 2>/dev/null; then
    pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
      "${pip[@]}" "torch==$torch_version"
    else
      "${pip[@]}" --no-deps "torch==$torch_version+cpu" 2>/dev/null ||
        "${pip[@]}" --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$torch_version" 2>/dev/null ||
        "${pip[@]}" "torch==$torch_version"
    fi
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$requirements"
  "$venv/bin/python" -m shared.env record "$name" --kind pip
fi
"${made:-$venv}/bin/python" -m shared.env hash
