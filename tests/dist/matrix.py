#!/usr/bin/env python3
"""Every victim, killed in every phase, in every way: the run ends by itself with the digest of an undisturbed one.

    tests/dist/matrix.py --list
    tests/dist/matrix.py [--only VICTIM/PHASE/FAULT]… [--full | --budget-s S] [--seed S] [--jobs N] [--markdown FILE]

Without arguments: every victim × phase with SIGKILL, then others in the order that the seed gives, until the
budget is spent. A phase is reached by a fault point (common/fault_point.h): the victim carries the fault out itself,
or a process holds there while the victim is hit from outside. The mark of the fault point proves that it
happened there; a case without its mark fails. Most of a case's time is waiting, so some are run at a time.
"""
import argparse
import concurrent.futures
import dataclasses
import fnmatch
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

from cluster import IMPATIENT, Cluster, is_alive, make_data, process_state, processes_of, send, wait_until
from harness import read_lines

VICTIMS = ("trainer", "supervisor", "coordinator-embedded", "coordinator-external", "host")
PHASES = ("forming", "syncing", "data", "forward", "reduction", "gate", "commit", "snapshot", "write", "manifest",
          "evaluation", "shutdown")
FAULTS = ("SIGKILL", "SIGSTOP", "exit-1")
LETTERS = {"SIGKILL": "K", "SIGSTOP": "S", "exit-1": "E"}  # in the table

STEPS = 20
SETTINGS = (f"max_steps={STEPS}", "eval.file=test.json", "eval.every_epochs=1", "elastic.join_window_s=10")
# Where in the run: iterations (reduction: the how manieth); an epoch has 6, checkpoints are taken every 2. Who is
# held until another one is hit must not be taken for stuck: the first 5 iterations of a generation have time.
AT = {"data": 4, "forward": 4, "reduction": 5, "gate": 4, "commit": 4, "snapshot": 4, "write": 4, "manifest": 4,
      "evaluation": 6}
# Forming and syncing are hit in the middle of the run, with state at stake: something else makes the second
# generation necessary.
SECOND_GENERATION = "trainer.0/gate@5:exit=3"
# How long a stopped process stays stopped: the limits are 2 s.
STOPPED_S = 6
LIMIT_S = 120
FAILED = "FAILED"

NO_SENSE = {
    ("trainer", "manifest", "exit-1"): "a trainer has no part in a manifest: that is its exit in any other phase",
    ("host", None, "exit-1"): "a host has no exit code",
}
for phase in PHASES:
    if phase not in ("forming", "shutdown"):
        NO_SENSE["supervisor", phase, "exit-1"] = (
            "a supervisor does nothing of its own in this phase: that is its exit while it starts a trainer "
            "(forming)")
    if phase not in ("forming", "syncing", "manifest", "shutdown"):
        for victim in ("coordinator-embedded", "coordinator-external"):
            NO_SENSE[victim, phase, "exit-1"] = "a coordinator does nothing of its own in this phase"


def reason_against(victim, phase, fault):
    """Why a cell makes no sense; None if it does."""
    return NO_SENSE.get((victim, phase, fault)) or NO_SENSE.get((victim, None, fault))


@dataclasses.dataclass(frozen=True)
class Cell:
    victim: str
    phase: str
    fault: str

    def __str__(self):
        return f"{self.victim}/{self.phase}/{self.fault}"

    @property
    def order(self):
        """Of the worker that is hit, or whose trainer shows that the phase is reached."""
        return 0 if self.victim == "host" or self.phase == "evaluation" else 1

    def place(self):
        """PROCESS/PHASE@AT of the fault point."""
        at = f"@{AT[self.phase]}" if self.phase in AT else ""
        if self.phase in ("forming", "syncing"):
            at = "@2"
        if self.phase == "manifest":
            return f"coordinator/manifest{at}"
        if self.victim.startswith("coordinator") and self.phase in ("forming", "syncing", "shutdown"):
            return f"coordinator/{self.phase}{at}"
        if self.victim == "supervisor" and self.phase == "shutdown":
            return f"supervisor.{self.order}/shutdown"
        if self.victim == "supervisor" and self.phase == "forming" and self.fault == "exit-1":
            return f"supervisor.{self.order}/trainer_started"
        return f"trainer.{self.order}/{self.phase}{at}"

    def is_own(self):
        """The process that comes to the place is the victim."""
        return self.victim.partition("-")[0] == self.place().partition("/")[0].partition(".")[0]

    def costs_steps(self):
        """Nobody else has the state: the trainer of worker 0 has just been started."""
        return self.phase in ("forming", "syncing") and self.victim in ("trainer", "supervisor")

    def action(self):
        if not self.is_own():
            return "hold"
        return {"SIGKILL": "kill", "SIGSTOP": "stop", "exit-1": "exit=1"}[self.fault]


CELLS = [Cell(v, p, f) for v in VICTIMS for p in PHASES for f in FAULTS]


class Case:
    """One cell, carried out."""

    def __init__(self, cell, folder, data, expected):
        self.cell = cell
        self.expected = expected
        place = cell.place()
        faults = [f"{place}:{cell.action()}"]
        if cell.phase in ("forming", "syncing"):
            faults.append(SECOND_GENERATION)
        self.mark = f"{place}:{cell.action()}".replace("/", "-").replace(":", "-")
        self.cluster = Cluster(pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=folder)), data, hosts=["n1", "n2"],
                               external=cell.victim == "coordinator-external", settings=SETTINGS,
                               faults=faults)

    def run(self):
        with self.cluster as cluster:
            reached_by = cluster.wait_for_mark(self.mark)
            victims = self.victims(reached_by)
            if self.cell.is_own():
                self.expect_hit(victims)
            else:
                send(signal.SIGSTOP if self.cell.fault == "SIGSTOP" else signal.SIGKILL, *victims)
            hit_at = time.monotonic()
            if self.cell.fault == "SIGSTOP":
                self.wait_while_stopped(victims, hit_at)
            elif self.cell.victim == "coordinator-external" and cluster.outcome() is None:
                wait_until(lambda: cluster.coordinator.poll() is not None, "end of the coordinator")
                cluster.start_coordinator()  # as its service manager does
            self.finish()

    def victims(self, reached_by):
        cluster, victim = self.cluster, self.cell.victim
        if self.cell.is_own():
            return [reached_by]
        if victim == "trainer":
            return [cluster.trainer_pid(self.cell.order)]
        if victim == "supervisor":
            return [cluster.workers[self.cell.order].pid]
        if victim == "host":
            return cluster.host_pids("n1")
        return [cluster.coordinator_pid()]

    def expect_hit(self, victims):
        """The victim did it to itself."""
        stopped = self.cell.fault == "SIGSTOP"
        wait_until(lambda: all(process_state(p) == "T" if stopped else not is_alive(p) for p in victims),
                   "victim that is hit", log=self.cluster.stderr)

    def wait_while_stopped(self, victims, since):
        """The run goes on meanwhile; then the victim does."""
        self.release()
        wait_until(lambda: time.monotonic() - since > STOPPED_S or not any(map(is_alive, victims)),
                   "time of being stopped")
        if self.cell.victim == "trainer" and self.cell.phase != "shutdown":
            wait_until(lambda: not any(map(is_alive, victims)), "death of the stuck trainer",
                       log=self.cluster.stderr)
        send(signal.SIGCONT, *victims)

    def release(self):
        if self.cell.action() == "hold":
            self.cluster.release(self.mark)

    def finish(self):
        cluster = self.cluster
        # What was killed has no exit code of its own; what was only stopped must find its end.
        gone = {"supervisor": [self.cell.order], "host": [0]}.get(self.cell.victim, [])
        if self.cell.fault == "SIGSTOP":
            gone = []
        codes = cluster.wait_for_end(limit_s=LIMIT_S, meanwhile=self.release, ignore=gone)
        outcome = cluster.outcome()
        assert outcome is not None, f"no outcome; exit codes {codes}\n{cluster.stderr()}"
        assert outcome["state"] == "SUCCEEDED", f"{outcome}\n{cluster.stderr()}"
        assert outcome["state_digest"] == self.expected, f"another digest: {outcome}\n{cluster.stderr()}"
        assert not any(codes.values()), f"exit codes {codes}\n{cluster.stderr()}"
        steps = [line["step"] for line in read_lines(cluster.run_dir / "metrics.jsonl")]
        if self.cell.costs_steps():
            steps = sorted(set(steps))
        assert steps == list(range(1, STEPS + 1)), f"steps {steps}\n{cluster.stderr()}"
        cluster.wait_until_nobody_is_left()


def undisturbed_digest(folder, data):
    run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    with Cluster(run_dir, data, workers=1, settings=SETTINGS) as cluster:
        codes = cluster.wait_for_end()
        assert codes == {0: 0}, f"{codes}\n{cluster.stderr()}"
        digest = cluster.outcome()["state_digest"]
        cluster.wait_until_nobody_is_left()
    return digest


def choose(options):
    """The cells to run, those of the budget behind the others; and how many of them must run."""
    possible = [c for c in CELLS if reason_against(c.victim, c.phase, c.fault) is None]
    if options.only:
        chosen = [c for c in possible if any(fnmatch.fnmatch(str(c), pattern) for pattern in options.only)]
        if not chosen:
            refused = [f"{c}: {reason_against(c.victim, c.phase, c.fault)}" for c in CELLS
                       if any(fnmatch.fnmatch(str(c), pattern) for pattern in options.only)]
            sys.exit("\n".join(refused) or f"no such cell: {options.only}; --list shows them")
        return chosen, len(chosen)
    if options.full:
        return possible, len(possible)
    kills = [c for c in possible if c.fault == "SIGKILL"]
    rest = [c for c in possible if c.fault != "SIGKILL"]
    random.Random(options.seed).shuffle(rest)
    return kills + rest, len(kills)


def print_list():
    for cell in CELLS:
        reason = reason_against(cell.victim, cell.phase, cell.fault)
        print(f"{str(cell):44}{f'makes no sense: {reason}' if reason else f'{cell.place()}:{cell.action()}'}")


def to_markdown(results):
    """docs/fault-matrix.md."""
    passed = sum(result != FAILED for result in results.values())
    lines = [
        "# Fault matrix",
        "",
        "Written by `tests/dist/matrix.py --full --markdown docs/fault-matrix.md`. Two workers on two simulated hosts train",
        f"{STEPS} steps; one victim is hit in one phase, which a fault point proves. A cell has passed when the run then ended",
        "by itself as SUCCEEDED, with the `state_digest` of an undisturbed run of one worker, every step recorded, exit code 0",
        "from every worker that was not killed, and no process left. Limits of this run:",
        ", ".join(f"`{setting}`" for setting in IMPATIENT) + ".",
        "",
        "K: SIGKILL. S: SIGSTOP for longer than the limits, then SIGCONT. E: exit with code 1. Seconds of the whole case: the",
        f"run itself, the start of its processes and, for S, {STOPPED_S} s of being stopped.",
        "",
        f"{passed} of {len(results)} cells passed.",
        "",
        "| phase | " + " | ".join(VICTIMS) + " |",
        "|---" * (len(VICTIMS) + 1) + "|",
    ]
    for phase in PHASES:
        row = []
        for victim in VICTIMS:
            parts = []
            for fault in FAULTS:
                result = results.get(Cell(victim, phase, fault))
                if result is not None:
                    parts.append(f"{LETTERS[fault]} {result}")
            row.append(", ".join(parts) or "–")
        lines.append(f"| {phase} | " + " | ".join(row) + " |")
    lines += ["", "## Cells that make no sense", "", "| cells | reason |", "|---|---|"]
    without = {}
    for cell in CELLS:
        if reason := reason_against(cell.victim, cell.phase, cell.fault):
            without.setdefault((cell.victim, cell.fault, reason), []).append(cell.phase)
    for (victim, fault, reason), phases in without.items():
        places = "every phase" if len(phases) == len(PHASES) else ", ".join(phases)
        lines.append(f"| {victim}, {fault}: {places} | {reason} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="all cells, with the place of the fault or the "
                        "reason why they make no sense")
    parser.add_argument("--only", action="append", metavar="VICTIM/PHASE/FAULT", help="with * and ?; repeatable")
    parser.add_argument("--full", action="store_true", help="all that makes sense")
    parser.add_argument("--budget-s", type=float, default=420, help="time after which no further case of the "
                        "seeded selection is begun")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--jobs", type=int, default=3, help="cases at a time")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the results as a table")
    parser.add_argument("--keep", action="store_true", help="keep the folder, with all run directories")
    options = parser.parse_args()
    if options.list:
        print_list()
        return 0

    cells, num_fixed = choose(options)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-matrix-"))
    results = {}
    start = time.monotonic()
    print(f"seed {options.seed}, in {folder}", flush=True)
    try:
        data = make_data(folder / "data")
        expected = undisturbed_digest(folder, data)
        print(f"undisturbed: {expected}", flush=True)

        def carry_out(index, cell):
            """The cell's line for the log, what to put in the table; None if it is too late to begin."""
            begin = time.monotonic()
            if index >= num_fixed and begin - start > options.budget_s:
                return None
            case = Case(cell, folder, data, expected)
            try:
                case.run()
                seconds = f"{time.monotonic() - begin:.1f} s"
                return f"ok      {seconds:>7}  {cell}", seconds
            except Exception as error:  # whatever it is, the other cells are carried out
                why = error if isinstance(error, AssertionError) else traceback.format_exc()
                return f"FAILED  {time.monotonic() - begin:6.1f} s  {cell}\n{case.cluster.run_dir}\n{why}", FAILED
            finally:
                send(signal.SIGKILL, *(p.pid for p in processes_of(case.cluster.run_dir)))
                if not options.keep:
                    shutil.rmtree(case.cluster.run_dir, ignore_errors=True)

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            futures = {pool.submit(carry_out, index, cell): cell for index, cell in enumerate(cells)}
            for future in concurrent.futures.as_completed(futures):
                if (done := future.result()) is not None:
                    line, results[futures[future]] = done
                    print(line, flush=True)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    failures = [cell for cell, result in results.items() if result == FAILED]
    if options.markdown:
        options.markdown.write_text(to_markdown(results))
    print(f"{len(results) - len(failures)} of {len(results)} cells passed in {time.monotonic() - start:.0f} s; "
          f"seed {options.seed}")
    for cell in failures:
        print(f"again: tests/dist/matrix.py --only {cell}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
