#!/usr/bin/env bash
# `albef data check` as people call it, on datasets from `albef data synth`.
# Usage: data_check_test.sh PATH_OF_ALBEF
set -euo pipefail
albef=$(realpath "$1")
quickstart=$PWD/configs/quickstart.yaml
# shellcheck source=tests/tools/expect.sh
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
cd "$work"
check() { expect "$1" "$albef" data check --config "$quickstart" "${@:2}"; }

expect 64 "$albef" data check
prints '--config is required'
expect 64 "$albef" data check --config nowhere.yaml
prints 'nowhere.yaml'
check 64 --set data.root=nowhere
prints 'nowhere/train.json: no such file'
check 64 --set no.such.key=1
check 64 --limit 0

expect 0 "$albef" data synth --output set --pairs 40 --test-pairs 10 --size 40
check 0 --set data.root=set --limit 40
prints 'samples    40'
prints 'images     40, 0 bad'
prints 'captions   200, 0 bad'
prints 'unknown    0.000 % of tokens'
prints 'pairs/s on 2 threads'
check 0 --set data.root=set --limit 40 --json
cp output report.json
expect 0 python3 - <<'END'
import json
report = json.load(open("report.json"))
assert report["train_file"]["samples"] == 40, report
assert report["train_file"]["passed"] is True, report
assert report["eval.file"]["images"] == 10, report
assert report["pairs_per_second"] > 0, report
END

check 64 --set data.root=set --set bert_config.vocab_size=100
prints 'vocab_size is 100'
check 64 --set data.root=set --set batch_size=64
prints 'the data has 40 samples'

printf 'no pixels' >set/images/train-0000003.jpg
check 1 --set data.root=set --limit 40
prints 'images     40, 1 bad'
prints 'train-0000003.jpg: invalid_image'
prints 'bad share  2.50 % of samples, 1.00 % allowed: TOO MANY'
check 0 --set data.root=set --limit 40 --set data.max_bad_fraction=0.05
rm set/images/test-0000000.jpg
check 1 --set data.root=set --limit 40 --set data.max_bad_fraction=0.05
prints '1 missing_image'

printf '[{"image": "images/train-0000001.jpg", "caption": ' >set/train.json
check 64 --set data.root=set
prints 'set/train.json'

printf 'ok: %d checks\n' "$checks"
