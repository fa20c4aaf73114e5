#!/usr/bin/env bash
# From nothing to a pretrained small ALBEF: installs what is missing, builds, makes a synthetic
# dataset, pretrains, and prints how the losses fell and how well held-out images and captions find
# each other. Run it again to go on after an interruption.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pairs=2000
runs=${ALBEF_RUNS:-$PWD/runs}
preset=release

usage() {
  cat <<END
Usage: deploy/quickstart.sh [--pairs N] [--cuda] [--set KEY=VALUE]…

  --pairs N        training images to make (default $pairs); as many as were made before, or remove
                   the dataset first
  --cuda           for NVIDIA GPUs: a larger download, and one worker per GPU, two at most
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
    --cuda) preset=cuda ;;
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

workers=2
dependencies=() device=cpu
if [[ $preset == cuda ]]; then
  dependencies=(--cuda) device=cuda
  gpus=$({ nvidia-smi --list-gpus || true; } | grep -c '^GPU') || {
    printf 'quickstart: --cuda, but nvidia-smi lists no GPU here\n' >&2
    exit 64
  }
  workers=$((gpus < 2 ? gpus : 2))
fi

say '1/4 what building needs'
deploy/install-deps.sh "${dependencies[@]}"

say '2/4 build'
definitions=()
if [[ -n ${ALBEF_LIBTORCH:-} ]]; then definitions=("-DALBEF_LIBTORCH=$ALBEF_LIBTORCH"); fi
cmake --preset "$preset" "${definitions[@]}"
# Compiling against LibTorch takes 2 GB at a time: no more jobs than cores.
cmake --build "build/$preset" --parallel "$(nproc)" --target albef albef-coordinator \
  albef-worker albef-trainer

say '3/4 dataset'
"build/$preset/bin/albef" data synth --output "$data" --pairs "$pairs"

say "4/4 pretraining, workers: $workers"
status=0
export ALBEF_BIN=$PWD/build/$preset/bin
deploy/mpirun/pretrain.sh -np "$workers" -- --device "$device" --config configs/quickstart.yaml \
  --set "data.root=$data" "${overrides[@]}" --run-dir "$run" || status=$?
if ((status == 75)); then say 'interrupted; run the same command again to go on'; fi
if ((status != 0)); then exit "$status"; fi

say "result of $run"
python3 tools/summarize_run.py "$run"
