#!/usr/bin/env bash
# deploy/install-deps.sh against a pretended system: dpkg-query, apt-get, sudo and pip are stand-ins
# that record how they were called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stand_ins=$work/bin
mkdir "$stand_ins"
export CALLS=$work/calls INSTALLED=$work/installed ALBEF_CACHE=$work/cache
unset ALBEF_LIBTORCH

stand_in() {
  { printf '#!/usr/bin/env bash\n' && cat; } >"$stand_ins/$1"
  chmod +x "$stand_ins/$1"
}
stand_in dpkg-query <<'END'
grep -qx -- "${!#}" "$INSTALLED" && printf installed
END
stand_in apt-get <<'END'
printf 'apt-get %s\n' "$*" >>"$CALLS"
[[ $* != *install* ]] && exit
while [[ $1 != --no-install-recommends ]]; do shift; done
shift
printf '%s\n' "$@" >>"$INSTALLED"
END
stand_in sudo <<'END'
exec "$@"
END
# Fails as an interrupted download does when $FAIL_PIP is set: with files already there.
stand_in python3 <<'END'
[[ $* == *--version* ]] && exit
printf 'pip %s\n' "$*" >>"$CALLS"
while [[ $1 != --target ]]; do shift; done
mkdir -p "$2/torch/lib" "$2/sympy"
touch "$2/torch/lib/libtorch_cpu.so" "$2/torch/lib/libtorch_cuda.so" "$2/sympy/__init__.py"
[[ -z ${FAIL_PIP:-} ]]
END

checks=0
fail() {
  printf 'FAILED: %s\n--- output\n%s\n--- calls\n%s\n' "$1" "$(<"$work/output")" "$(<"$CALLS")" >&2
  exit 1
}
# run STATUS [ARGUMENT…]: runs the script, which must exit with STATUS.
run() {
  local expected=$1 status=0
  shift
  : >"$CALLS"
  PATH=$stand_ins:$PATH deploy/install-deps.sh "$@" >"$work/output" 2>&1 || status=$?
  ((status == expected)) || fail "expected exit status $expected, got $status"
}
prints() {
  grep -qF -- "$1" "$work/output" || fail "expected the output to contain: $1"
  checks=$((checks + 1))
}
calls() {
  grep -qE -- "$1" "$CALLS" || fail "expected a call like: $1"
  checks=$((checks + 1))
}
does_not_call() {
  ! grep -qE -- "$1" "$CALLS" || fail "unexpected call: $1"
  checks=$((checks + 1))
}

version=$(<deploy/libtorch-version.txt)
folder=$ALBEF_CACHE/libtorch-$version
: >"$INSTALLED"

run 0 --dry-run
prints 'installing with apt-get: build-essential cmake'
does_not_call .
[[ ! -e $ALBEF_CACHE ]] || fail 'a dry run made the cache'

FAIL_PIP=1 run 1
calls '^apt-get .*update'
calls '^apt-get .*install .*libabsl-dev.*libbenchmark-dev'
calls '^pip .*--no-deps torch=='
prints 'running this again starts afresh'
[[ ! -e $folder ]] || fail 'an interrupted download was taken for a complete one'
mkdir -p "$folder.partial.killed"

sed -i '/^libpng-dev$/d' "$INSTALLED"
run 0
calls '^apt-get .*--no-install-recommends libpng-dev$'
prints "$folder is ready"
[[ -e $folder/torch/lib/libtorch_cpu.so ]] || fail 'no LibTorch in the cache'
[[ ! -e $folder.partial.killed ]] || fail 'the leavings of a killed run are still there'

run 0
does_not_call .
prints "$folder is there"

run 0 --cuda
calls '^pip '
does_not_call '--no-deps'
prints "$folder-cuda is ready"

rm -r "$folder"
ALBEF_LIBTORCH=/opt/libtorch run 0
does_not_call .
prints '-DALBEF_LIBTORCH=/opt/libtorch'

run 64 --unknown
prints 'Usage:'
run 0 --help
prints '--skip-packages'

# Where apt-get is not to be found: everything else of this system, but neither apt-get nor dpkg-query.
mkdir "$work/other"
for command in bash env dirname cat grep mktemp; do
  ln -s "$(command -v "$command")" "$work/other/$command"
done
status=0
PATH=$work/other deploy/install-deps.sh >"$work/output" 2>&1 || status=$?
((status == 1)) || fail "expected exit status 1 without apt-get, got $status"
prints 'libabsl-dev'
prints '-DALBEF_LIBTORCH=DIR'
prints '--skip-packages'

printf 'ok: %d checks\n' "$checks"
