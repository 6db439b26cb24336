#!/bin/sh
# Says what a model or adapter file is: deno task inspect, from any folder. --help lists the flags.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
INIT_CWD=$PWD exec sh "$scripts/deno.sh" task --config "$scripts/../deno.json" inspect "$@"
