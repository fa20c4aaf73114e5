#!/usr/bin/env bash
# Starts workers with mpirun and ends with the run's exit code, which mpirun itself does not pass on.
#
# mpirun is told to let the survivors of a dead worker live; in exchange it returns 0 whatever happened,
# and never where one of its daemons died. So what counts is RUN_DIR/outcome.json of this attempt, and
# where none is written (a usage error) the codes that the workers leave in a folder made for them.
set -euo pipefail
export LC_ALL=C.UTF-8

bin=${ALBEF_BIN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build/release/bin}
# Between the end of the run and the end of mpirun.
readonly grace_s=10
# For workers that mpirun left behind: the coordinator gives them 120 s for a checkpoint.
readonly leave_s=130

usage() {
  cat <<END
Usage: deploy/mpirun/pretrain.sh [mpirun options] -- --config FILE --run-dir DIR [worker options]

Starts albef-worker on the slots that the mpirun options name:
  deploy/mpirun/pretrain.sh -np 4 -- --config configs/Pretrain.yaml --run-dir /shared/run
  deploy/mpirun/pretrain.sh --hostfile hosts -np 16 -- --config … --run-dir … --insecure

INT, TERM and USR2 ask the run to checkpoint and end (75; the same command goes on); a second INT ends
it at once (130). The exit code is the run's: 0 done, 64 usage or configuration, 74 storage, 75
interrupted and checkpointed, 93 failed for good, 130 second interrupt, 1 otherwise.

Environment: ALBEF_BIN (folder of albef-worker, the same on all hosts; now $bin)
END
}

say() { printf 'pretrain: %s\n' "$*" >&2; }
refuse() {
  say "$*"
  usage >&2
  exit 64
}

mpirun_options=()
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
  esac
  mpirun_options+=("$1")
  shift
done
if ((!$#)); then refuse "no '--' between the options of mpirun and those of the workers"; fi
shift
run_dir=
for ((i = 1; i <= $#; ++i)); do
  case ${!i} in
    --run-dir=*) run_dir=${!i#*=} ;;
    --run-dir)
      next=$((i + 1))
      run_dir=${!next:-}
      ;;
  esac
done
if [[ -z $run_dir ]]; then refuse 'the workers need --run-dir DIR'; fi
command -v mpirun >/dev/null || refuse 'no mpirun here: install openmpi-bin'
[[ -x $bin/albef-worker ]] || refuse "no albef-worker in $bin: build it, or set ALBEF_BIN"

exits=
if ! mkdir -p "$run_dir" || ! run_dir=$(cd "$run_dir" && pwd) ||
  ! exits=$(mktemp -d "$run_dir/.exits.XXXXXX"); then
  say "$run_dir cannot be written"
  exit 74
fi
# Of this script alone, not where the run may fill the disk.
scratch=$(mktemp)
trap 'rm -rf "$exits" "$scratch" || true' EXIT

# What follows is asked again and again while signals may come, and bash 5.2 mixes up a trap with a
# command substitution that it is reading: so there is none, answers come in variables and files.

# Sets `identity` to what names the outcome.json that is there: another one is that of this attempt.
# Left alone when stat fails, which it also does when a signal ends it.
identity=
identify_outcome() {
  if stat -c '%i %s %y' "$run_dir/outcome.json" >"$scratch" 2>/dev/null; then
    read -r identity <"$scratch" || true
  fi
}
identify_outcome
readonly past=$identity
has_ended() {
  identify_outcome
  [[ $identity != "$past" ]]
}

# Sets `code` to what workers have left, the gravest first; empty while there is none.
find_gravest_code() {
  local file left wanted codes=' '
  code=
  for file in "$exits"/*=*; do
    [[ -e $file ]] || continue
    codes+="${file##*=} "
  done
  for wanted in 64 74 130 93 75; do
    if [[ $codes == *" $wanted "* ]]; then
      code=$wanted
      return
    fi
  done
  for left in $codes; do
    if [[ -z $code || $code == 0 ]]; then code=$left; fi
  done
}

# A signal to the process group ends the sleep, too.
pause() { sleep 0.1 || true; }

mpirun=
is_running() { kill -0 "$mpirun" 2>/dev/null; }

# TERM makes it end the workers, which takes it some seconds; without it they leave by themselves.
end_mpirun() {
  local i
  kill -TERM "$mpirun" 2>/dev/null || return 0
  for ((i = 0; i < 50; ++i)); do
    is_running || return 0
    pause
  done
  kill -KILL "$mpirun" 2>/dev/null || true
}

drained=no
interrupts=0
# mpirun hands USR2 on to the process group of every worker.
# shellcheck disable=SC2317  # called by a trap
drain() {
  drained=yes
  if [[ -n $mpirun ]]; then kill -USR2 "$mpirun" 2>/dev/null || true; fi
}
# shellcheck disable=SC2317  # called by a trap
interrupt() {
  interrupts=$((interrupts + 1))
  if ((interrupts == 1)); then drain; fi
}
trap drain USR2 TERM
trap interrupt INT

if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
# A process group of its own: a terminal's INT is for this script, mpirun would end the job on it.
set -m
mpirun --enable-recovery --bind-to none --oversubscribe -x "ALBEF_EXIT_DIR=$exits" \
  "${mpirun_options[@]}" "$bin/albef-worker" "$@" </dev/null &
mpirun=$!
set +m
if [[ $drained == yes ]]; then drain; fi

# Whether a worker has not left its code yet.
is_any_left() {
  local file
  for file in "$exits"/*; do
    if [[ -e $file && $file != *=* ]]; then return 0; fi
  done
  return 1
}

# A fault of one worker that no other can make good: they would wait for it in vain.
is_hopeless() {
  find_gravest_code
  [[ $code == 64 || $code == 74 ]]
}

ended_at=
while is_running; do
  if ((interrupts > 1)); then
    end_mpirun
    exit 130
  fi
  if [[ -z $ended_at ]] && { has_ended || is_hopeless; }; then ended_at=$SECONDS; fi
  if [[ -n $ended_at ]] && ((SECONDS - ended_at >= grace_s)); then
    say "mpirun does not return $grace_s s after the end of the run, ending it"
    end_mpirun
    break
  fi
  pause
done
status=0
wait "$mpirun" 2>/dev/null || status=$?
# A killed mpirun takes nothing with it: its workers leave by themselves.
if ((status > 128)) && [[ -z $ended_at ]]; then
  deadline=$((SECONDS + leave_s))
  while is_any_left && ((SECONDS < deadline && interrupts < 2)); do
    if [[ -z $ended_at ]] && has_ended; then
      ended_at=$SECONDS
      deadline=$((SECONDS + grace_s))
    fi
    pause
  done
fi

trap '' USR2 TERM INT
find_gravest_code
# Where the first worker was refused, an outcome is that of another job in this directory.
if [[ ! -e $exits/0=64 ]] && has_ended; then
  code=$(sed -nE 's/.*"exit_code": *([0-9]+).*/\1/p' "$run_dir/outcome.json" | head -n 1)
fi
# Before there were workers that could have said so.
if [[ -z $code && $drained == yes ]]; then code=75; fi
if [[ -z $code ]]; then
  say 'the workers ended without saying how; their messages are above'
  code=1
fi
exit "$code"
