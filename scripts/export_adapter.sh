#!/bin/sh
# Writes an adapter for other programs: deno task export_adapter, from any folder. --help lists the flags.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
INIT_CWD=$PWD exec sh "$scripts/deno.sh" task --config "$scripts/../deno.json" export_adapter "$@"
