#!/usr/bin/env bash
# `albef data index` as people call it.
# Usage: data_index_test.sh PATH_OF_ALBEF
set -euo pipefail
albef=$(realpath "$1")
quickstart=$PWD/configs/quickstart.yaml
# shellcheck source=tests/tools/expect.sh
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
cd "$work"
index() { expect "$1" "$albef" data index --config "$quickstart" "${@:2}"; }

expect 64 "$albef" data index
prints '--config is required'
expect 0 "$albef" data synth --output set --pairs 40 --test-pairs 10 --size 40
index 0 --set data.root=set
prints '40 samples'
prints 'all: 50 samples'
[[ -f set/train.json.albef-index && -f set/test.json.albef-index ]] || fail 'no index beside the files'
index 0 --set data.root=set
prints 'there already'
index 0 --set data.root=set --rebuild
prints 'being made from'

# A damaged one is noticed and replaced.
printf 'x' | dd of=set/train.json.albef-index bs=1 seek=100 conv=notrunc status=none
index 0 --set data.root=set
prints 'is damaged; it is made anew'

# Elsewhere; relative to data.root.
index 0 --set data.root=set --set data.index_dir=indices
prints 'set/indices/train.json.'
compgen -G 'set/indices/train.json.*.albef-index' >/dev/null || fail 'no index in data.index_dir'

printf '[{"image": 1}]' >set/train.json
index 64 --set data.root=set
prints 'set/train.json: sample 0: expected a string at byte 11'

printf 'ok: %d checks\n' "$checks"
