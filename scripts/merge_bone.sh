#!/bin/sh
# Folds a Bone adapter into its base model: deno task merge_bone, from any folder. --help lists the flags.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
INIT_CWD=$PWD exec sh "$scripts/deno.sh" task --config "$scripts/../deno.json" merge_bone "$@"
