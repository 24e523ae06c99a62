#!/usr/bin/env bash
# First start: make the cluster and the database. Then run the server.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  rm -rf "$PGDATA"
  initdb --encoding=UTF8 --locale=C.UTF-8 --auth=scram-sha-256 --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" "$PGDATA" >/dev/null
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
if [ ! -e "$PGDATA/database-made" ]; then
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses= -k /tmp" start >/dev/null
  export PGPASSWORD; PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  psql -h /tmp -U "$POSTGRES_USER" -d postgres -tAc "SELECT 1 FROM pg_database WHERE datname = '$POSTGRES_DB'" | grep -q 1 ||
    createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl -D "$PGDATA" -w -m fast stop >/dev/null
  touch "$PGDATA/database-made"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -k /tmp
