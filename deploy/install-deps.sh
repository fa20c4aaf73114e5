#!/usr/bin/env bash
# Installs what building and testing needs: Debian packages, and the pinned LibTorch wheel in a cache
# outside the build tree. Run it as often as you like: what is there is left alone.
set -euo pipefail
export LC_ALL=C.UTF-8

readonly packages=(
  build-essential cmake ninja-build ccache mold git ca-certificates pkg-config
  python3 python3-pip python3-venv
  iproute2
  libabsl-dev libspdlog-dev libfmt-dev libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libsimdjson-dev
  libutf8proc-dev libxxhash-dev libjpeg-dev libpng-dev libwebp-dev zlib1g-dev
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libopenmpi-dev openmpi-bin
  libsqlite3-dev prometheus-cpp-dev libcpp-httplib-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=$(<"$root/deploy/libtorch-version.txt")
cache=${ALBEF_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/albef}
readonly root version cache
# What a CPU build links and loads; --cuda takes all that the wheel depends on instead.
readonly cpu_wheels=("torch==$version" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)

usage() {
  cat <<END
Usage: deploy/install-deps.sh [--cuda] [--skip-packages] [--dry-run]

Installs the Debian packages that are missing (as root or through sudo) and LibTorch $version
(a PyPI wheel, 0.5 GB to download) into
  $cache/libtorch-$version

  --cuda           LibTorch with all its CUDA libraries and headers instead (5 GB), into
                   libtorch-$version-cuda beside it
  --skip-packages  leave the system's packages alone
  --dry-run        say what is missing and stop

Environment: ALBEF_CACHE (the cache folder), ALBEF_LIBTORCH (a LibTorch of your own: no wheel is
fetched).
END
}

say() { printf 'install-deps: %s\n' "$*"; }
fail() {
  printf 'install-deps: %s\n' "$*" >&2
  exit 1
}

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
      printf '%s\n' "$package"
  done
}

install_packages() {
  local missing=() as_root=()
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    fail "no apt-get here, so this is not Debian or a relative of it. Install with this system's
package manager what Debian calls
  ${packages[*]}
then run deploy/install-deps.sh --skip-packages for LibTorch, or configure with
-DALBEF_LIBTORCH=DIR for a LibTorch (>= 2.6) of your own."
  fi
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then
    say "all ${#packages[@]} packages are installed"
    return
  fi
  say "installing with apt-get: ${missing[*]}"
  if [[ $dry_run == yes ]]; then return; fi
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      fail "not root, and no sudo here. As root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -q
    -o Acquire::Retries=5 -o DPkg::Lock::Timeout=600)
  "${as_root[@]}" update
  "${as_root[@]}" install -y --no-install-recommends "${missing[@]}"
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} != 0)); then
    fail "apt-get reported success, but these are still missing: ${missing[*]}"
  fi
}

# install_wheels FOLDER WITNESS PIP_ARGUMENT…: pip install into cache/FOLDER, unless WITNESS is in it.
# A temporary folder beside it is renamed at the end, so that FOLDER is there wholly or not at all.
install_wheels() (
  local folder=$cache/$1 witness=$2
  shift 2
  if [[ -e $folder/$witness ]]; then
    say "$folder is there"
    return
  fi
  say "fetching $(wheel_names "$@") into $folder"
  if [[ $dry_run == yes ]]; then return; fi
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip: install python3-pip"
  mkdir -p "$cache"
  exec {lock}>"$cache/.lock"
  flock -n "$lock" || {
    say "waiting for another installation into $cache"
    flock "$lock"
  }
  if [[ -e $folder/$witness ]]; then return; fi
  # Holding the lock: whatever is there under these names was left by an interrupted run.
  rm -rf "$folder" "$folder".partial.*
  partial=$(mktemp -d "$folder.partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  python3 -m pip install --disable-pip-version-check --no-cache-dir --no-input --progress-bar off \
    --root-user-action ignore --retries 10 --timeout 60 --only-binary=:all: --target "$partial" "$@" ||
    fail "pip could not fetch the wheels (its message is above); running this again starts afresh.
Behind a proxy or mirror set HTTPS_PROXY or PIP_INDEX_URL; or set ALBEF_LIBTORCH to a LibTorch of your own."
  [[ -e $partial/$witness ]] || fail "the wheels hold no $witness"
  chmod 755 "$partial"
  mv -T "$partial" "$folder"
  say "$folder is ready"
)

wheel_names() {
  local argument names=()
  for argument in "$@"; do
    [[ $argument == -* ]] || names+=("$argument")
  done
  printf '%s' "${names[*]}"
}

cuda=no
dry_run=no
skip_packages=no
for argument in "$@"; do
  case $argument in
    --cuda) cuda=yes ;;
    --skip-packages) skip_packages=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 64
      ;;
  esac
done

if [[ $skip_packages == no ]]; then install_packages; fi
if [[ -n ${ALBEF_LIBTORCH:-} ]]; then
  say "using ALBEF_LIBTORCH=$ALBEF_LIBTORCH; pass -DALBEF_LIBTORCH=$ALBEF_LIBTORCH to cmake"
elif [[ $cuda == yes ]]; then
  install_wheels "libtorch-$version-cuda" torch/lib/libtorch_cuda.so "torch==$version"
else
  install_wheels "libtorch-$version" torch/lib/libtorch_cpu.so --no-deps "${cpu_wheels[@]}"
fi
# For the tests that check our files with the wheel's Python side; its optimizers import sympy.
install_wheels python-packages sympy/__init__.py --no-deps \
  typing_extensions==4.16.0 sympy==1.14.0 mpmath==1.3.0
