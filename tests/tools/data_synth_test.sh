#!/usr/bin/env bash
# `albef data synth` as people call it: exit codes, messages, interruption, full disk.
# Usage: data_synth_test.sh PATH_OF_ALBEF
set -euo pipefail
albef=$(realpath "$1")
# shellcheck source=tests/tools/expect.sh
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
cd "$work"

expect 64 "$albef"
prints 'subcommand is required'
expect 0 "$albef" --help
prints 'data'
expect 0 "$albef" data synth --help
prints '--pairs'
expect 64 "$albef" data
expect 64 "$albef" data synthesise
expect 64 "$albef" data synth --pairs 4
prints '--output is required'
expect 64 "$albef" data synth --output set
prints '--pairs is required'
expect 64 "$albef" data synth --output set --pairs many
expect 64 "$albef" data synth --output set --pairs 0
prints 'albef: pairs must be from 1 to'
expect 64 "$albef" data synth --output set --pairs 4 --test-pairs 1.5
prints 'a fraction between 0 and 1, not "1.5"'
expect 64 "$albef" data synth --output set --pairs 4 --size 1
[[ ! -e set ]] || fail 'a refused command line left a folder behind'

expect 0 "$albef" data synth --output set --pairs 20 --seed 3 --size 32 --test-pairs 0.5
prints 'set: written: 20 training and 10 test pairs'
for file in train.json test.json vocab.txt images/train-0000019.jpg images/test-0000009.jpg; do
  [[ -s set/$file ]] || fail "set/$file is missing"
done
[[ $(ls set) == 'images
synthetic.json
test.json
train.json
vocab.txt' ]] || fail "unexpected files: $(ls set)"
expect 0 "$albef" data synth --output set --pairs 20 --seed 3 --size 32 --test-pairs 10
prints 'set: already there'
expect 64 "$albef" data synth --output set --pairs 20 --seed 4 --size 32 --test-pairs 10
prints '"seed":3'
prints 'choose another folder'
expect 0 "$albef" data synth --output one --pairs 20 --seed 3 --size 32 --test-pairs 10 --threads 1
diff -r set one >"$work/output" || fail 'the number of threads changed the files'

mkdir mine
touch mine/notes
expect 64 "$albef" data synth --output mine --pairs 20
prints 'mine: not empty'
[[ $(ls mine) == notes ]] || fail 'a foreign folder was written to'

# Killed while it writes an image, by the signal for a file beyond the limit: not to be taken for
# complete; the same command starts afresh.
arguments=(data synth --pairs 8 --size 96)
killed() (
  ulimit -c 0 -f 1
  exec "$albef" "${arguments[@]}" --output killed
)
expect 153 killed
[[ -e killed/synthetic.incomplete && ! -e killed/train.json ]] ||
  fail 'an interrupted run looks complete'
compgen -G 'killed/images/train-*' >/dev/null || fail 'it was not interrupted while it drew'
expect 0 "$albef" "${arguments[@]}" --output killed
prints 'killed: written: 8'
expect 0 "$albef" "${arguments[@]}" --output whole
diff -r killed whole >"$work/output" || fail 'an interrupted run left its traces'

# Two at a time in one folder: the second is refused, the first is not disturbed.
expect 0 mkdir held
(
  exec {lock}>held/synthetic.incomplete
  flock "$lock"
  expect 64 "$albef" data synth --output held --pairs 4
  prints 'another process is writing this dataset'
)

# No room: a limit on the size of files wherever this runs, and a full file system where it may be
# mounted.
limited() (
  trap '' XFSZ
  ulimit -f 1
  exec "$albef" data synth --output limited --pairs 4 --size 512
)
expect 74 limited
prints 'cannot write: File too large'
if unshare --map-root-user --mount true 2>/dev/null; then
  mkdir full
  # shellcheck disable=SC2016
  expect 74 unshare --map-root-user --mount bash -c '
    mount -t tmpfs -o size=200k tmpfs full || exit 3
    "$0" data synth --output full/set --pairs 400 || status=$?
    [[ ! -e full/set/train.json ]] || exit 4
    exit "${status:-0}"' "$albef"
  prints 'No space left on device'
else
  printf 'no mount namespace here: left out the full file system\n'
fi

printf 'ok: %d checks\n' "$checks"
