# shellcheck shell=bash
# Sourced by tests of programs: run one, say what its exit status and output must be.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0

fail() {
  printf 'FAILED: %s\n--- output\n%s\n' "$1" "$(<"$work/output")" >&2
  exit 1
}

# expect STATUS COMMAND…: stdout and stderr together become the output to look at.
expect() {
  local expected=$1 status=0
  shift
  "$@" >"$work/output" 2>&1 || status=$?
  ((status == expected)) || fail "expected exit status $expected, got $status: $*"
  checks=$((checks + 1))
}

# prints TEXT: the last output holds it.
prints() {
  grep -qF -- "$1" "$work/output" || fail "expected the output to contain: $1"
  checks=$((checks + 1))
}
