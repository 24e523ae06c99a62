#!/usr/bin/env bash
# Make local environment images, and one of the report's libraries, from what this machine has; for builds where
# the conda channel or the npm registry cannot be reached. RUNTIME_IMAGE must bring Python 3.11.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${RUNTIME_IMAGE:-local/debian:bookworm}
export DOCKER_BUILDKIT=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in ${1:-train xai}; do
  .venv/bin/python envs/env_image.py "$name" "$work/$name"
  docker build --quiet --build-arg RUNTIME_IMAGE="$base" --tag "gowhy-env-$name:local" --file envs/Dockerfile.env "$work/$name" >/dev/null
  echo "gowhy-env-$name:local"
done
ui=services/xai_worker/report/ui
[ -f "$ui/dist/viewer.js" ] || make --no-print-directory ui
printf 'FROM scratch\nCOPY . /dist\n' > "$work/Dockerfile.ui"
docker build --quiet --tag gowhy-ui:local --file "$work/Dockerfile.ui" "$ui/dist" >/dev/null
echo gowhy-ui:local
