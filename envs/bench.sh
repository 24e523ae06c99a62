#!/usr/bin/env bash
# Make .venv-bench, the interpreter of benchmark peers that gowhy does not depend on, and print its path.
# Prints nothing, and so leaves their rows refused, where it cannot be made.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=envs/pip/bench.txt
python=.venv-bench/bin/python
wanted=$(sha256sum "$lock" | cut -d ' ' -f 1)
if [ "$(cat .venv-bench/made-from 2>/dev/null || true)" != "$wanted" ]; then
  {
    [ -x "$python" ] || .venv/bin/python -m venv .venv-bench
    torch=$(.venv/bin/python -c 'import torch; print(torch.__version__)')
    "$python" -m pip install --quiet --disable-pip-version-check "torch==$torch" ||
      "$python" -m pip install --quiet --disable-pip-version-check "torch==${torch%+*}"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
    echo "$wanted" > .venv-bench/made-from
  } >&2 || exit 0
fi
echo "$PWD/$python"
