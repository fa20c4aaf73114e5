"""A run with several real workers, and the means to disturb it.

Workers are started as srun would (SLURM_PROCID …), which gives each its order and needs nothing around it;
tests of mpirun use deploy/mpirun/pretrain.sh. ALBEF_HOST gives each worker the host the test wants it to be on.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from harness import BIN, LIMIT_S, ROOT, read_lines, run_program

TINY = ROOT / "tests/dist/tiny.yaml"
# Limits of a run that must notice everything while a test waits.
IMPATIENT = ("elastic.hang_limit_s=2", "elastic.heartbeat_limit_s=2", "elastic.reattach_window_s=5",
             "elastic.coordinator_wait_s=60")
PROGRAMS = ("albef-coordinator", "albef-worker", "albef-trainer")


def make_data(folder):
    """70 pairs for training and 8 for evaluation."""
    code, stderr = run_program(BIN / "albef", "data", "synth", "--output", folder, "--pairs", 70,
                               "--test-pairs", 8)
    assert code == 0, stderr
    return folder


def wait_until(condition, what, *, limit_s=LIMIT_S, log=lambda: ""):
    """The first true value of condition()."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {limit_s} s\n{log()}")
        time.sleep(0.005)
    return value


def is_alive(pid):
    return process_state(pid) not in ("", "Z", "X")


def process_state(pid):
    """R, S, T, Z …; empty for a process that is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def send(number, *pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Process:
    """One process of a run as the process list shows it."""

    def __init__(self, pid, arguments):
        self.pid = pid
        self.program = pathlib.Path(arguments[0]).name
        self.arguments = arguments
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.parent = int(stat[1])

    def __repr__(self):
        return f"{self.program}[{self.pid}]"


def processes_of(run_dir):
    """All processes, on this machine, of the run in this directory."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if pathlib.Path(arguments[0]).name in PROGRAMS and any(str(run_dir) in a for a in arguments):
                found.append(Process(int(entry.name), arguments))
    return found


class Cluster:
    """The workers of one run. A context manager: nothing of it outlives the block.

    `settings` are KEY=VALUE; `faults` of common/fault_point.h reach every process.
    """

    def __init__(self, run_dir, data, *, workers=2, hosts=None, external=False, settings=(), faults=(),
                 config=TINY, resume=None):
        self.run_dir = pathlib.Path(run_dir)
        self.num_workers = workers
        self.hosts = hosts or ["n1"] * workers
        self.external = external
        self.config = config
        self.settings = [f"data.root={data}", *IMPATIENT, *settings]
        self.resume = resume
        self.faults = list(faults)
        self.marks = pathlib.Path(tempfile.mkdtemp(prefix="marks-", dir=self.run_dir.parent))
        self.logs = pathlib.Path(tempfile.mkdtemp(prefix="stderr-", dir=self.run_dir.parent))
        self.workers = {}
        self.coordinator = None
        self._address = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        for process in processes_of(self.run_dir):
            send(signal.SIGKILL, process.pid)
        for process in (*self.workers.values(), *([self.coordinator] if self.coordinator else ())):
            process.wait()
        shutil.rmtree(self.marks, ignore_errors=True)

    # --- starting ---

    def start(self):
        if self.external:
            self.start_coordinator()
        for order in range(self.num_workers):
            self.start_worker(order)

    def start_coordinator(self):
        """The external one; again at the address it had before."""
        before = self._file()
        self.launch_coordinator()
        self._address = wait_until(lambda: self._file() != before and self._file().get("address"),
                                   "coordinator.json", log=self.stderr)

    def launch_coordinator(self):
        """The same without waiting until it serves."""
        self.coordinator = self._popen("coordinator", [BIN / "albef-coordinator", "--run-dir", self.run_dir,
                                                       "--listen", self._address or "127.0.0.1:0"], {})

    def start_worker(self, order, *, of=None, host=None):
        environment = self.worker_environment(order, of or self.num_workers, host)
        self.workers[order] = self._popen(f"worker-{order}", self.worker_command(order), environment)
        return self.workers[order]

    def worker_command(self, order):
        command = [BIN / "albef-worker", "--config", self.config, "--run-dir", self.run_dir]
        for setting in self.settings:
            command += ["--set", setting]
        if self.resume:
            command += ["--resume", self.resume]
        if self.external:
            command += ["--coordinator", self._address]
        return command

    def worker_environment(self, order, of, host):
        return {"SLURM_PROCID": str(order), "SLURM_STEP_NUM_TASKS": str(of),
                "ALBEF_HOST": host or (self.hosts[order] if order < len(self.hosts) else "n1")}

    def _popen(self, name, command, environment):
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment}
        if self.faults:
            environment |= {"ALBEF_FAULT": " ".join(self.faults), "ALBEF_FAULT_DIR": str(self.marks)}
        with open(self.logs / name, "ab") as log:
            return subprocess.Popen([str(a) for a in command], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=log, env=environment)

    def _file(self):
        try:
            return json.loads((self.run_dir / "coordinator.json").read_text())
        except FileNotFoundError:
            return {}

    # --- looking ---

    def stderr(self):
        """What every process said, for the message of a failed test."""
        texts = []
        for path in sorted([*self.logs.iterdir(), *(self.run_dir / "logs").glob("trainer-*.log")]):
            lines = path.read_text(errors="replace").splitlines()
            texts.append("\n".join([f"--- {path.name}", *lines[-60:]]))
        return "\n".join(texts)

    def ctl(self, *arguments):
        """Runs albefctl; (exit code, stdout, stderr)."""
        done = subprocess.run([str(BIN / "albefctl"), "--run-dir", str(self.run_dir), *map(str, arguments)],
                              capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.returncode, done.stdout, done.stderr

    def ask(self, *arguments):
        """The JSON of an albefctl command that must succeed."""
        code, stdout, stderr = self.ctl(*arguments, "--json")
        if code != 0:
            raise AssertionError(f"albefctl {arguments}: {code} {stderr}\n{self.stderr()}")
        return json.loads(stdout)

    def members(self):
        return [worker for worker in self.ask("workers")["workers"] if worker["rank"] >= 0]

    def processes(self, program=None):
        return [p for p in processes_of(self.run_dir) if program in (None, p.program)]

    def term(self):
        """Of the newest coordinator; 0: there was none."""
        return self._file().get("term", 0)

    def coordinator_pid(self):
        return self._file().get("pid", 0)

    def trainer_pid(self, order):
        """Of the trainer that lives under this worker; 0: none."""
        supervisor = self.workers[order].pid
        return next((p.pid for p in self.processes("albef-trainer") if p.parent == supervisor), 0)

    def host_pids(self, host):
        """Every process on a host, the supervisors first."""
        supervisors = [self.workers[order].pid for order in self.workers if self.hosts[order] == host]
        return supervisors + [p.pid for p in self.processes() if p.parent in supervisors]

    def events(self, *kinds):
        return [e for e in read_lines(self.run_dir / "events.jsonl") if not kinds or e["kind"] in kinds]

    def step(self):
        metrics = read_lines(self.run_dir / "metrics.jsonl")
        return metrics[-1]["step"] if metrics else 0

    def outcome(self):
        """The end of this attempt; None before it."""
        path = self.run_dir / "outcome.json"
        try:
            if path.stat().st_mtime_ns >= (self.run_dir / "coordinator.json").stat().st_mtime_ns:
                return json.loads(path.read_text())
        except FileNotFoundError:
            pass
        return None

    # --- waiting ---

    def wait_until(self, condition, what, limit_s=LIMIT_S):
        """Until condition(); fails when every worker has ended before."""
        def condition_or_end():
            value = condition()
            if not value and all(w.poll() is not None for w in self.workers.values()):
                value = condition()  # what the last of them has just done counts
                if not value:
                    raise AssertionError(f"the run ended before: {what}\n{self.stderr()}")
            return value
        return wait_until(condition_or_end, what, limit_s=limit_s, log=self.stderr)

    def wait_for_step(self, step):
        self.wait_until(lambda: self.step() >= step, f"step {step}")

    def wait_for_mark(self, mark):
        """Until the fault of this mark takes place; the pid it takes place in."""
        path = self.marks / mark
        return int(self.wait_until(lambda: path.exists() and path.read_text().strip(), f"fault {mark}"))

    def release(self, mark):
        """Ends a hold. Another process may come there later and hold again: to be called until the end."""
        with contextlib.suppress(FileNotFoundError):
            (self.marks / mark).unlink()

    def wait_for_end(self, *, limit_s=LIMIT_S, meanwhile=lambda: None, ignore=()):
        """Until every worker has ended; their exit codes by order, but those of `ignore`."""
        def ended():
            meanwhile()
            return all(w.poll() is not None for order, w in self.workers.items() if order not in ignore)
        wait_until(ended, "end of the workers", limit_s=limit_s, log=self.stderr)
        return {order: w.poll() for order, w in self.workers.items() if order not in ignore}

    def wait_until_nobody_is_left(self, limit_s=15):
        """Until the process list shows nothing of the run. Its children end a moment after a process."""
        wait_until(lambda: not self.processes(), "empty process list", limit_s=limit_s,
                   log=lambda: f"{self.processes()}\n{self.stderr()}")
