#!/bin/sh
# Watches runs in the browser and serves models: deno task serve, from any folder. --help lists the flags.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
INIT_CWD=$PWD exec sh "$scripts/deno.sh" task --config "$scripts/../deno.json" serve "$@"
