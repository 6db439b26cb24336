#!/bin/sh
# Fetches a model or a vocabulary from the Hugging Face Hub: deno task fetch, from any folder. --help lists the flags.
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
INIT_CWD=$PWD exec sh "$scripts/deno.sh" task --config "$scripts/../deno.json" fetch "$@"
