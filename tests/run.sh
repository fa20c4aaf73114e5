#!/usr/bin/env bash
# Installs what is missing, builds and runs every test: the whole system (preset release), then what
# needs no LibTorch under the sanitizers (presets dev and tsan).
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<END
Usage: tests/run.sh [--presets LIST] [ctest arguments…]

  --presets LIST  comma-separated, of release, dev (AddressSanitizer and UndefinedBehaviorSanitizer)
                  and tsan (ThreadSanitizer); default release,dev,tsan

Tests labelled long or gpu are left out unless the ctest arguments hold a -LE of their own:
  tests/run.sh --presets release -L golden
  tests/run.sh --presets release -L long -LE gpu
Environment: CMAKE_BUILD_PARALLEL_LEVEL, CTEST_PARALLEL_LEVEL (default: the number of cores).
END
}

presets=release,dev,tsan
ctest_arguments=()
label_filter=(-LE 'long|gpu')
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --presets)
      presets=${2:?"--presets needs a list"}
      shift
      ;;
    --presets=*) presets=${1#*=} ;;
    -LE | --label-exclude)
      label_filter=()
      ctest_arguments+=("$1")
      ;;
    *) ctest_arguments+=("$1") ;;
  esac
  shift
done
IFS=, read -ra preset_list <<<"$presets"
for preset in "${preset_list[@]}"; do
  case $preset in
    release | dev | tsan) ;;
    *)
      printf 'tests/run.sh: unknown preset "%s"\n' "$preset" >&2
      usage >&2
      exit 64
      ;;
  esac
done

cores=$(nproc)
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$cores}
export CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$cores}
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1 suppressions=$PWD/tests/tsan_suppressions.txt}

deploy/install-deps.sh

output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=0
total=0
summary=()
failures=()
for preset in "${preset_list[@]}"; do
  printf '\n== %s: configure and build\n' "$preset"
  started=$SECONDS
  definitions=()
  if [[ $preset == release && -n ${ALBEF_LIBTORCH:-} ]]; then
    definitions=("-DALBEF_LIBTORCH=$ALBEF_LIBTORCH")
  fi
  cmake --preset "$preset" "${definitions[@]}"
  cmake --build "build/$preset"
  built=$SECONDS
  printf '\n== %s: tests\n' "$preset"
  status=0
  ctest --test-dir "build/$preset" --output-on-failure "${label_filter[@]}" "${ctest_arguments[@]}" 2>&1 |
    tee "$output" || status=$?
  # ctest's own closing line: "98% tests passed, 2 tests failed out of 113".
  preset_failed=0
  if read -r preset_failed preset_total < <(
    sed -nE 's/^[0-9]+% tests passed, ([0-9]+) tests? failed out of ([0-9]+)$/\1 \2/p' "$output"
  ); then
    failed=$((failed + preset_failed))
    total=$((total + preset_total))
    summary+=("$preset: $preset_failed of $preset_total failed; $((built - started)) s to build, $((SECONDS - built)) s to test")
  else
    summary+=("$preset: no tests")
  fi
  # A line of its list of what failed: "\t524 - Suite.Name (Failed)".
  while read -r name; do
    failures+=("$preset: $name")
  done < <(sed -nE '/\(Skipped\)/d; s/^[[:space:]]+[0-9]+ - (.* \([A-Za-z ]+\)).*$/\1/p' "$output")
  # Other reasons than a failed test: bad arguments, a test program that ctest cannot list.
  if ((status != 0 && preset_failed == 0)); then
    printf 'tests/run.sh: ctest ended with status %d for preset %s\n' "$status" "$preset" >&2
    exit "$status"
  fi
done
printf '\n'
printf '%s\n' "${summary[@]}"
if ((${#failures[@]} > 0)); then printf '%s\n' "${failures[@]}"; fi
if ((total == 0)); then
  printf 'tests/run.sh: no test matched\n' >&2
  exit 1
fi
printf '%d%% tests passed, %d tests failed out of %d\n' \
  $(((total - failed) * 100 / total)) "$failed" "$total"
((failed == 0))
