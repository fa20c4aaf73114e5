"""deploy/mpirun/pretrain.sh and albef-worker under a real mpirun, with probes in the places of trainer and
coordinator (tests/worker/*_probe.cc). Arguments: the folder of albef-worker and the probes."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 60


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class MpirunTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-mpirun-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.run_dir = self.folder / "run"
        self.run_dir.mkdir()
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for program, name in ("albef-worker", "albef-worker"), ("trainer_probe", "albef-trainer"), (
                "coordinator_probe", "albef-coordinator"):
            shutil.copy(BUILT / program, self.bin / name)
        for name in "train.json", "vocab.txt":
            (self.folder / name).write_text("[]\n")
        self.log = self.folder / "log"
        self.environment = {**os.environ, "ALBEF_BIN": str(self.bin)}

    def arguments(self, *extra):
        return ["--config", ROOT / "tests/dist/tiny.yaml", "--set", f"data.root={self.folder}", "--run-dir",
                self.run_dir, *extra]

    def start(self, *extra, workers=2):
        """The wrapper, as a terminal starts it: in a process group of its own."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(a) for a in (ROOT / "deploy/mpirun/pretrain.sh", "-np", workers, "--",
                                  *self.arguments(*extra))],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=self.environment,
                start_new_session=True)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.kill()
        process.wait()

    def stderr(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_until(self, condition, what):
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"no {what} within {LIMIT_S} s:\n{self.stderr()}")
            time.sleep(0.02)

    def wait_for_sessions(self, count, term=1):
        text = f"in session with the coordinator run_id=run-1 term={term} "
        self.wait_until(lambda: self.stderr().count(text) >= count, f"{count} sessions")

    def worker_pids(self):
        """By rank."""
        pids = {}
        for path in self.run_dir.glob("logs/worker-*.log"):
            line = next(l for l in path.read_text().splitlines() if " worker id=" in l)
            pids[int(path.stem.partition("-")[2])] = int(line.partition("[")[2].partition("]")[0])
        return pids

    def expect_exit(self, process, code):
        self.assertEqual(process.wait(timeout=LIMIT_S), code, self.stderr())

    def expect_nobody_left(self, pids):
        self.wait_until(lambda: not any(map(is_alive, pids)), "end of all processes")

    def coordinator_pid(self):
        return json.loads((self.run_dir / "coordinator.json").read_text())["pid"]

    def test_a_run_ends_with_its_exit_code_and_an_old_outcome_is_not_taken_for_it(self):
        for code in 75, 93, 0:
            (self.run_dir / "script").write_text(f"end {code}\n")
            self.expect_exit(self.start(), code)
        self.assertEqual(len((self.run_dir / "starts").read_text().splitlines()), 3)
        self.assertEqual(list(self.run_dir.glob(".exits.*")), [])

    def test_a_usage_error_ends_it_with_64_and_starts_nothing(self):
        self.expect_exit(self.start("--set", "batch_size=none"), 64)
        self.assertIn("batch_size", self.stderr())
        self.assertFalse((self.run_dir / "starts").exists())

    def test_a_coordinator_that_is_refused_ends_all(self):
        (self.run_dir / "script").write_text("exit 64\n")
        self.expect_exit(self.start(), 64)

    def test_a_full_disk_hides_no_exit_code(self):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.run_dir], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("mounts are not allowed here")
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.run_dir], check=True)
        (self.run_dir / "script").write_text("exit 74\n")
        with contextlib.suppress(OSError), (self.run_dir / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        self.expect_exit(self.start(), 74)
        self.assertNotIn("cannot create", self.stderr())

    def test_the_outcome_of_another_job_is_not_that_of_one_that_was_refused(self):
        (self.run_dir / "script").write_text("exit 64\n")
        process = self.start()
        self.wait_until(lambda: "refused" in self.stderr(), "refusal")
        outcome = {"state": "SUCCEEDED", "reason": "", "exit_code": 0, "state_digest": "", "step": 1}
        (self.run_dir / "outcome.json").write_text(json.dumps(outcome))
        self.expect_exit(process, 64)

    def test_wrong_arguments_of_its_own_end_it_with_64(self):
        for arguments in ["-np", "2"], ["-np", "2", "--", "--config", "x"]:
            done = subprocess.run([ROOT / "deploy/mpirun/pretrain.sh", *arguments], check=False,
                                  capture_output=True, text=True, env=self.environment)
            self.assertEqual(done.returncode, 64)
            self.assertIn("Usage:", done.stderr)
        done = subprocess.run([ROOT / "deploy/mpirun/pretrain.sh", "--help"], check=False,
                              capture_output=True, text=True, env=self.environment)
        self.assertEqual(done.returncode, 0)
        self.assertIn("Usage:", done.stdout)

    def test_signals_ask_the_run_to_end(self):
        for number in signal.SIGUSR2, signal.SIGTERM, signal.SIGINT:
            term = len(list(self.run_dir.glob("coordinator/term-*"))) + 1
            process = self.start()
            self.wait_for_sessions(2, term)
            pids = [*self.worker_pids().values(), self.coordinator_pid()]
            # A terminal's INT goes to the whole process group.
            os.killpg(process.pid, number)
            self.expect_exit(process, 75)
            self.expect_nobody_left(pids)

    def test_a_second_interrupt_ends_all_at_once(self):
        # Nobody answers the first: the coordinator is stopped.
        process = self.start()
        self.wait_for_sessions(2)
        pids = [*self.worker_pids().values(), self.coordinator_pid()]
        os.kill(pids[-1], signal.SIGSTOP)
        os.killpg(process.pid, signal.SIGINT)
        self.wait_until(lambda: self.stderr().count("asking the run to checkpoint and end") == 2, "signals")
        os.killpg(process.pid, signal.SIGINT)
        self.expect_exit(process, 130)
        self.expect_nobody_left(pids)

    def test_the_run_survives_the_death_of_a_worker(self):
        process = self.start(workers=3)
        self.wait_for_sessions(3)
        pids = self.worker_pids()
        os.kill(pids[2], signal.SIGKILL)
        self.expect_nobody_left([pids[2]])
        # The first one and its coordinator, too: another worker takes over.
        old_coordinator = self.coordinator_pid()
        os.kill(pids[0], signal.SIGKILL)
        self.expect_nobody_left([pids[0], old_coordinator])
        self.wait_for_sessions(1, term=2)
        process.send_signal(signal.SIGUSR2)
        self.expect_exit(process, 75)
        self.expect_nobody_left([pids[1]])

    def test_workers_leave_when_mpirun_is_killed(self):
        marks = self.folder / "marks"
        marks.mkdir()
        self.environment |= {"ALBEF_FAULT": "supervisor.1/shutdown:hold", "ALBEF_FAULT_DIR": str(marks)}
        process = self.start()
        self.wait_for_sessions(2)
        pids = self.worker_pids()
        coordinator = self.coordinator_pid()
        mpirun = next(int(p.parent.name) for p in pathlib.Path("/proc").glob("[0-9]*/stat")
                      if p.exists() and p.read_text().rpartition(")")[2].split()[1] == str(process.pid) and
                      "(mpirun)" in p.read_text())
        os.kill(mpirun, signal.SIGKILL)
        # One of them takes its time.
        mark = marks / "supervisor.1-shutdown-hold"
        self.wait_until(mark.exists, "hold")
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        mark.unlink()
        self.expect_exit(process, 75)
        self.expect_nobody_left([*pids.values(), coordinator])
        self.assertEqual(list(self.run_dir.glob(".exits.*")), [])

    def test_an_mpirun_that_does_not_return_is_ended(self):
        stand_in = self.folder / "stand-in"
        stand_in.mkdir()
        (stand_in / "mpirun").write_text(
            '#!/usr/bin/env bash\n'
            f'printf \'{{"state": "SUCCEEDED", "exit_code": 0}}\' >"{self.run_dir}/outcome.json"\n'
            f'echo $$ >"{self.folder}/pid"\n'
            'while true; do sleep 0.1; done\n')
        (stand_in / "mpirun").chmod(0o755)
        self.environment["PATH"] = f"{stand_in}:{self.environment['PATH']}"
        began = time.monotonic()
        self.expect_exit(self.start(), 0)
        self.assertGreaterEqual(time.monotonic() - began, 9)
        self.assertIn("does not return", self.stderr())
        self.expect_nobody_left([int((self.folder / "pid").read_text())])

    def test_plain_mpirun_works_too(self):
        (self.run_dir / "script").write_text("end 0\n")
        environment = {**self.environment, "OMPI_ALLOW_RUN_AS_ROOT": "1",
                       "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        done = subprocess.run(
            [str(a) for a in ("mpirun", "-np", 2, "--oversubscribe", self.bin / "albef-worker",
                              *self.arguments())],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=LIMIT_S,
            check=False)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    BUILT = pathlib.Path(sys.argv.pop(1))
    unittest.main()
