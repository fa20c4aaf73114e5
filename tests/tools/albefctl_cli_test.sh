#!/usr/bin/env bash
# albefctl's command line: usage, and what it says where no run is.
# Usage: albefctl_cli_test.sh PATH_OF_ALBEFCTL
set -euo pipefail
albefctl=$(realpath "$1")
# shellcheck source=tests/tools/expect.sh
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
cd "$work"

expect 0 "$albefctl" --help
for command in status watch workers checkpoints checkpoint pause resume drain stop; do
  prints "  $command "
done
expect 64 "$albefctl"
prints 'subcommand is required'
expect 64 "$albefctl" nonsense --run-dir run
prints 'unknown command "nonsense"; commands: status, watch, workers'
expect 64 "$albefctl" --nonsense
prints 'unknown option "--nonsense"'
expect 64 "$albefctl" status
prints '--run-dir'
expect 64 "$albefctl" status --coordinator here
prints '"here" is no HOST:PORT'
expect 64 "$albefctl" status --coordinator host:70000
expect 64 "$albefctl" status --run-dir run --timeout 0
expect 64 "$albefctl" stop extra --run-dir run

expect 1 "$albefctl" status --run-dir run
prints 'run/coordinator.json'
expect 1 "$albefctl" --run-dir run drain n1
expect 1 "$albefctl" --coordinator 127.0.0.1:1 --timeout 0.3 workers --json
prints 'nobody answers at 127.0.0.1:1'

mkdir run
printf '{"state": "PREEMPTED", "reason": "SIGTERM", "exit_code": 75, "state_digest": "8a0c", "step": 7}' \
  >run/outcome.json
expect 0 "$albefctl" status --run-dir run
prints 'PREEMPTED'
expect 0 "$albefctl" status --json --run-dir run
prints '"exit_code": 75'
expect 0 "$albefctl" --run-dir run checkpoints
prints 'no checkpoints'
expect 74 bash -c 'exec "$1" status --run-dir run >/dev/full' - "$albefctl"
prints 'No space left on device'
expect 75 "$albefctl" --run-dir run watch
prints 'SIGTERM'
expect 1 "$albefctl" --run-dir run pause
prints 'has ended, PREEMPTED at step 7: SIGTERM'

printf 'ok: %d checks\n' "$checks"
