#!/usr/bin/env bash
# Prepare what compose.yaml needs and run docker compose: `compose.sh up|down|logs|... [ARGS]`. Starts no engine.
# SCALE=n: the override with Postgres, n workers. GPU=1: the override for a GPU. LOCAL_ENV=1: images that
# `make env-image` made from this machine instead of the conda and npm stages.
set -euo pipefail
cd "$(dirname "$0")/.."

docker info >/dev/null 2>&1 || { echo "error: no Docker Engine answers (DOCKER_HOST=${DOCKER_HOST:-unset}). Start one" >&2; exit 69; }
export DOCKER_BUILDKIT=1
sha() { sha256sum "$1" | cut -d ' ' -f 1; }
suffix=""; files=(-f compose.yaml)
if [ -n "${GPU:-}" ]; then suffix=-cuda; files+=(-f compose.gpu.yaml); fi
if [ -n "${SCALE:-}" ]; then files+=(-f compose.scale.yaml); fi
for file in ${COMPOSE_OVERRIDES:-}; do files+=(-f "$file"); done

if [ -n "${LOCAL_ENV:-}" ]; then
  export RUNTIME_IMAGE=${RUNTIME_IMAGE:-local/debian:bookworm} GOWHY_PULL_POLICY=never UI_IMAGE=gowhy-ui:local
  export TRAIN_ENV_IMAGE=gowhy-env-train:local XAI_ENV_IMAGE=gowhy-env-xai:local
  export TRAIN_LOCK_SHA256=${TRAIN_LOCK_SHA256:-$(sha envs/pip/train.txt)} XAI_LOCK_SHA256=${XAI_LOCK_SHA256:-$(sha envs/pip/xai.txt)}
  if [ -n "${SCALE:-}" ]; then export POSTGRES_IMAGE=${POSTGRES_IMAGE:-gowhy-postgres:local}; fi
else
  export TRAIN_LOCK=train$suffix XAI_LOCK=xai$suffix
  export TRAIN_LOCK_SHA256=${TRAIN_LOCK_SHA256:-$(sha "envs/train$suffix.lock.yml")} XAI_LOCK_SHA256=${XAI_LOCK_SHA256:-$(sha "envs/xai$suffix.lock.yml")}
fi
export GOWHY_REVISION=${GOWHY_REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

# Secrets are files that only this account and, through its mount, the containers' account can reach.
secret() { [ -s "secrets/$1" ] || { (umask 077; mkdir -p secrets); printf '%s' "$2" > "secrets/$1"; }; chmod 0444 "secrets/$1"; }
random() { od -An -N 32 -tx1 /dev/urandom | tr -d ' \n'; }
if [ "${1:-}" = up ]; then
  # A file that somebody named is theirs to provide; a missing one is Compose's error.
  [ -n "${GOWHY_TOKEN_FILE:-}" ] || secret xai_token "$(random)"
  if [ -n "${SCALE:-}" ]; then
    secret postgres_password "$(random)"
    secret database_url "postgresql://gowhy:$(cat secrets/postgres_password)@postgres/gowhy"
  fi
  if [ ! -d out ]; then
    mkdir out
    chown 10001:10001 out 2>/dev/null || chmod 0777 out
  fi
fi
[ "${1:-}" = finish ] || exec docker compose "${files[@]}" "$@"
# `finish`: wait for the hand-over that `up --detach` started, show what it said, end with its exit code.
container=$(docker compose "${files[@]}" ps --all --quiet submit)
[ -n "$container" ] || { echo "error: nothing was handed over; see make logs" >&2; exit 69; }
code=$(docker wait "$container")
docker logs --tail 20 "$container"
exit "$code"
