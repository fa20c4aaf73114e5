#!/usr/bin/env bash
# From nothing to a pretrained small ALBEF: installs what is missing, builds, makes a synthetic
# dataset, pretrains, and prints how the losses fell and how well held-out images and captions find
# each other. Run it again to go on after an interruption.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pairs=2000
runs=${ALBEF_RUNS:-$PWD/runs}

usage() {
  cat <<END
Usage: deploy/quickstart.sh [--pairs N] [--set KEY=VALUE]…

  --pairs N        training images to make (default $pairs); as many as were made before, or remove
                   the dataset first
  --set KEY=VALUE  override a key of configs/quickstart.yaml, e.g. --set schedular.epochs=2

Writes \$ALBEF_RUNS/quickstart (now: $runs/quickstart): data/ and run/.
END
}

overrides=()
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --pairs | --set)
      if (($# < 2)); then
        usage >&2
        exit 64
      fi
      if [[ $1 == --pairs ]]; then pairs=$2; else overrides+=(--set "$2"); fi
      shift
      ;;
    *)
      usage >&2
      exit 64
      ;;
  esac
  shift
done

data=$runs/quickstart/data
run=$runs/quickstart/run
say() { printf '\nquickstart: %s\n' "$*"; }

say '1/4 what building needs'
deploy/install-deps.sh

say '2/4 build'
definitions=()
if [[ -n ${ALBEF_LIBTORCH:-} ]]; then definitions=("-DALBEF_LIBTORCH=$ALBEF_LIBTORCH"); fi
cmake --preset release "${definitions[@]}"
# Compiling against LibTorch takes 2 GB at a time: no more jobs than cores.
cmake --build build/release --parallel "$(nproc)" --target albef albef-coordinator \
  albef-worker albef-trainer

say '3/4 dataset'
build/release/bin/albef data synth --output "$data" --pairs "$pairs"

say '4/4 pretraining on two workers'
status=0
deploy/mpirun/pretrain.sh -np 2 -- --config configs/quickstart.yaml --set "data.root=$data" \
  "${overrides[@]}" --run-dir "$run" || status=$?
if ((status == 75)); then say 'interrupted; run the same command again to go on'; fi
if ((status != 0)); then exit "$status"; fi

say "result of $run"
python3 tools/summarize_run.py "$run"
