#!/usr/bin/env python3
"""Trouble beside the matrix: stuck and slow members, connections, disks, damage, workers that come and go, signals
to mpirun. Each test proves that its fault took place and compares the digest with that of a lone worker."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from cluster import Cluster, make_data, processes_of, send, wait_until
from harness import BIN, ROOT, read_lines
from tcp_proxy import TcpProxy

# (settings, faults) → digest of a run of one worker that nothing else happens to.
LONE_DIGESTS = {}

SHORT = ("max_steps=20",)
FOUR_RANKS = ("virtual_ranks=4",)
# Trainers are held in iteration 4, or they would be taken for stuck: the first 5 of a generation are granted
# elastic.startup_limit_s.
# Long enough for trainers to come and go in the middle of it.
LONG = ("max_steps=150", "schedular.epochs=200", "checkpoint.every_steps=20")


class FaultsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-faults-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.data = make_data(cls.folder / "data")

    def new_run_dir(self):
        return pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))

    def cluster(self, run_dir=None, **options):
        return Cluster(run_dir or self.new_run_dir(), self.data, **options)

    def lone_digest(self, settings, faults=()):
        key = (tuple(sorted(settings)), tuple(faults))
        if key not in LONE_DIGESTS:
            with self.cluster(workers=1, settings=settings, faults=faults) as cluster:
                self.assertEqual(cluster.wait_for_end(), {0: 0}, cluster.stderr())
                LONE_DIGESTS[key] = cluster.outcome()["state_digest"]
        return LONE_DIGESTS[key]

    def expect_success(self, cluster, settings, *, faults=(), ignore=(), meanwhile=lambda: None):
        """The run ends by itself, with the digest of a lone worker, and leaves no process."""
        codes = cluster.wait_for_end(ignore=ignore, meanwhile=meanwhile)
        self.assertFalse(any(codes.values()), f"{codes}\n{cluster.stderr()}")
        outcome = cluster.outcome()
        self.assertEqual(outcome["state"], "SUCCEEDED", outcome)
        cluster.wait_until_nobody_is_left()
        self.assertEqual(outcome["state_digest"], self.lone_digest(settings, faults), cluster.stderr())


class StuckMembers(FaultsTest):
    def test_of_four_trainers_exactly_the_stopped_one_is_killed(self):
        settings = (*SHORT, *FOUR_RANKS)
        with self.cluster(workers=4, settings=settings, faults=["trainer.2/forward@8:stop"]) as cluster:
            stopped = cluster.wait_for_mark("trainer.2-forward@8-stop")
            self.expect_success(cluster, settings)
            self.assertEqual([e["pid"] for e in cluster.events("trainer_killed")], [stopped])
            self.assertEqual(len(cluster.events("trainer_exited")), 1)

    def test_a_trainer_that_hangs_in_its_own_work_is_killed_and_only_that(self):
        settings = (*SHORT, *FOUR_RANKS)
        with self.cluster(workers=4, settings=settings, faults=["trainer.1/forward@8:hang"]) as cluster:
            stuck = cluster.wait_for_mark("trainer.1-forward@8-hang")
            self.expect_success(cluster, settings)
            self.assertEqual([e["pid"] for e in cluster.events("trainer_killed")], [stuck])

    def test_an_evaluation_longer_than_the_hang_limit_kills_nobody(self):
        settings = (*SHORT, "eval.file=test.json")
        with self.cluster(settings=settings, faults=["trainer.0/evaluation@12:hold"]) as cluster:
            cluster.wait_for_mark("trainer.0-evaluation@12-hold")
            since = time.monotonic()  # how long it lasts is the fault: more than twice the limit of 2 s
            cluster.wait_until(lambda: time.monotonic() - since > 5, "end of a long evaluation")
            cluster.release("trainer.0-evaluation@12-hold")
            self.expect_success(cluster, settings)
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])
            self.assertIn(12, [e["step"] for e in cluster.events("evaluation")])


class Connections(FaultsTest):
    """Two trainers whose mesh goes through a proxy."""

    @contextlib.contextmanager
    def cluster_with_proxy(self):
        """Held by rank 1 before iteration 4."""
        mark = "trainer.1-forward@4-hold"
        with TcpProxy(0, lambda: cluster.trainer_pid(0)) as proxy:
            with self.cluster(settings=SHORT, faults=["trainer.1/forward@4:hold", proxy.fault()]) as cluster:
                cluster.wait_for_mark(mark)
                self.assertGreater(proxy.num_connections, 0, "the trainers do not use the proxy")
                yield cluster, proxy, lambda: cluster.release(mark)

    def test_a_cut_connection_costs_a_generation_and_no_trainer(self):
        with self.cluster_with_proxy() as (cluster, proxy, go_on):
            before = proxy.num_connections
            self.assertGreater(proxy.cut(), 0)
            go_on()
            self.expect_success(cluster, SHORT)
            self.assertGreater(proxy.num_connections, before, "they have not connected again")
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited"), [])
            self.assertEqual([e["cause"] for e in cluster.events("recovery")], ["communication"])

    def test_a_connection_that_falls_silent_costs_a_generation_and_no_trainer(self):
        with self.cluster_with_proxy() as (cluster, proxy, go_on):
            before = proxy.num_connections
            self.assertGreater(proxy.silence(), 0)
            go_on()
            self.expect_success(cluster, SHORT)
            self.assertGreater(proxy.num_connections, before, "they have not connected again")
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited"), [])
            # Who notices first, keepalive or coordinator, is open.
            self.assertIn([e["cause"] for e in cluster.events("recovery")], (["communication"], ["stuck"]))

    def test_a_slow_connection_slows_the_run_down_and_kills_nobody(self):
        with self.cluster_with_proxy() as (cluster, proxy, go_on):
            proxy.delay_s = 0.4
            begin, bytes_before = time.monotonic(), proxy.num_bytes
            go_on()
            cluster.wait_until(lambda: cluster.step() >= 7, "slow steps")
            # A step exchanges features, gradients twice and the gate's words, one after the other.
            self.assertGreater(time.monotonic() - begin, 3 * 3 * proxy.delay_s)
            self.assertGreater(proxy.num_bytes, bytes_before)
            proxy.delay_s = 0.0
            self.expect_success(cluster, SHORT)
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])


class Storage(FaultsTest):
    def test_a_slow_disk_stops_nobody(self):
        mark = "trainer.1-write@8-hold"
        with self.cluster(settings=SHORT, faults=["trainer.1/write@8:hold"]) as cluster:
            cluster.wait_for_mark(mark)
            since = time.monotonic()
            cluster.wait_until(lambda: time.monotonic() - since > 4, "end of a slow write")
            cluster.release(mark)
            self.expect_success(cluster, SHORT)
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])

    def test_a_death_while_the_last_checkpoint_is_written_changes_no_bit(self):
        with self.cluster(settings=SHORT, faults=["trainer.1/write@20:kill"]) as cluster:
            cluster.wait_for_mark("trainer.1-write@20-kill")
            self.expect_success(cluster, SHORT)
            # Formed for nothing but that checkpoint.
            self.assertEqual([e["step"] for e in cluster.events("recovery")], [20])

    def test_a_full_disk_stops_no_step_and_the_run_succeeds_once_there_is_room(self):
        run_dir = self.new_run_dir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", run_dir], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("mounts are not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", run_dir], check=True)
        mark = "trainer.0-forward@4-hold"
        with self.cluster(run_dir, settings=SHORT, faults=["trainer.0/forward@4:hold"]) as cluster:
            cluster.wait_for_mark(mark)
            filler = run_dir / "filler"
            with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"\0" * 4096):
                    pass
            cluster.release(mark)
            # The last step is done, its checkpoint is tried again and again.
            def waits_for_room():
                status = cluster.ask("status")
                return status["step"] == 20 and "checkpoint of step 20" in status["reason"]
            cluster.wait_until(waits_for_room, "end of training on a full disk")
            filler.unlink()
            self.expect_success(cluster, SHORT)
            self.assertTrue(cluster.events("checkpoint_failed", "lines_dropped"))

    def test_a_flipped_byte_in_the_newest_checkpoint_costs_its_steps_only(self):
        run_dir = self.new_run_dir()
        with self.cluster(run_dir, settings=("max_steps=12",)) as cluster:
            self.assertEqual(cluster.wait_for_end(), {0: 0, 1: 0}, cluster.stderr())
        newest = run_dir / "checkpoints/step-0000000012"
        shard = sorted(newest.glob("*.safetensors"))[-1]
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 0x10
        shard.write_bytes(content)
        with self.cluster(run_dir, settings=SHORT) as cluster:
            self.expect_success(cluster, SHORT)
            self.assertIn(shard.name, cluster.events("checkpoint_quarantined")[-1]["reason"])
            self.assertEqual(cluster.events("resumed")[-1]["step"], 10)

    def test_the_loss_of_everybody_costs_the_steps_since_the_checkpoint(self):
        run_dir = self.new_run_dir()
        with self.cluster(run_dir, settings=SHORT, faults=["trainer.1/forward@4:hold"]) as cluster:
            cluster.wait_for_mark("trainer.1-forward@4-hold")
            cluster.wait_until(lambda: (run_dir / "checkpoints/step-0000000004").exists(), "checkpoint 4")
            send(signal.SIGKILL, *(p.pid for p in cluster.processes()))
            cluster.wait_for_end()
            self.assertIsNone(cluster.outcome())
        with self.cluster(run_dir, settings=SHORT) as cluster:
            self.expect_success(cluster, SHORT)
            self.assertEqual(cluster.events("resumed")[-1]["step"], 4)


class Membership(FaultsTest):
    def test_the_death_of_one_of_three_trainers_costs_one_generation(self):
        with self.cluster(workers=3, settings=SHORT, faults=["trainer.1/gate@4:kill"]) as cluster:
            cluster.wait_for_mark("trainer.1-gate@4-kill")
            self.expect_success(cluster, SHORT)
            # One gets the state, one gives it, and the third must not be put out of step by that.
            self.assertEqual([e["cause"] for e in cluster.events("recovery")], ["trainer_killed"])

    def test_survivors_keep_what_they_have_computed_of_the_iteration(self):
        settings = (*SHORT, *FOUR_RANKS, "elastic.rejoin_wait_s=0")
        with self.cluster(settings=settings, faults=["trainer.1/forward@8:kill"]) as cluster:
            cluster.wait_for_mark("trainer.1-forward@8-kill")
            self.expect_success(cluster, settings)
            self.assertIn("step 9 goes on where it was: virtual_ranks=4 computed_before=2", cluster.stderr())

    def test_two_flapping_workers_do_not_stop_the_third(self):
        settings = ("max_steps=60", "elastic.rejoin_wait_s=1")
        with self.cluster(workers=3, settings=settings) as cluster:
            kills = 0
            def flap():
                nonlocal kills
                if kills < 12 and cluster.outcome() is None:
                    for order in (1, 2):
                        if pid := cluster.trainer_pid(order):
                            send(signal.SIGKILL, pid)
                            kills += 1
            codes = cluster.wait_for_end(meanwhile=flap)
            self.assertFalse(any(codes.values()), f"{codes}\n{cluster.stderr()}")
            self.assertGreaterEqual(kills, 4, "they did not flap")
            self.expect_success(cluster, settings)

    def test_grows_from_one_worker_to_four(self):
        settings = (*LONG, *FOUR_RANKS)
        with self.cluster(workers=1, settings=settings, faults=["trainer.0/forward@4:hold"]) as cluster:
            cluster.wait_for_mark("trainer.0-forward@4-hold")
            for order in (1, 2, 3):
                cluster.start_worker(order, of=4)
            def all_are_there():
                return sum(bool(w["trainer_pid"]) for w in cluster.ask("workers")["workers"]) == 4
            cluster.wait_until(all_are_there, "four trainers")
            cluster.release("trainer.0-forward@4-hold")
            cluster.wait_until(lambda: len(cluster.members()) == 4, "generation of four")
            self.expect_success(cluster, settings)
            self.assertEqual(max(e["workers"] for e in cluster.events("membership")), 4)
            # Nobody was lost for it.
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])

    def test_shrinks_from_four_workers_to_one(self):
        settings = (*LONG, *FOUR_RANKS)
        with self.cluster(workers=4, settings=settings, faults=["trainer.0/forward@4:hold"]) as cluster:
            cluster.wait_for_mark("trainer.0-forward@4-hold")
            for order in (1, 2):
                rank = next(w["rank"] for w in cluster.members() if w["order"] == order)
                code, _, stderr = cluster.ctl("drain", rank, "--timeout", 0.5)
                self.assertIn(code, (0, 1), stderr)  # it need not wait until the worker has left
            send(signal.SIGKILL, cluster.workers[3].pid)
            cluster.release("trainer.0-forward@4-hold")
            cluster.wait_until(lambda: [w["order"] for w in cluster.members()] == [0], "generation of one")
            self.expect_success(cluster, settings, ignore=[3])
            for order in (1, 2):
                self.assertEqual(cluster.workers[order].returncode, 0)

    def test_a_spare_takes_the_place_of_a_lost_worker(self):
        settings = ("max_steps=20", "virtual_ranks=2", "elastic.rejoin_wait_s=0")
        # Whichever two are ready first take part.
        with self.cluster(workers=3, external=True, settings=settings,
                          faults=["trainer/forward@4:hold"]) as cluster:
            held = cluster.wait_for_mark("trainer-forward@4-hold")
            self.assertEqual(cluster.ask("status")["spares"], 1)
            lost = next(order for order in cluster.workers if cluster.trainer_pid(order) == held)
            send(signal.SIGKILL, cluster.workers[lost].pid)
            self.expect_success(cluster, settings, ignore=[lost])
            self.assertEqual(cluster.events("membership")[-1]["workers"], 2)


class Damage(FaultsTest):
    def test_a_nan_in_one_virtual_ranks_gradient_is_skipped_by_all_and_counted(self):
        with self.cluster(settings=SHORT, faults=["trainer.1/gradient@7:damage"]) as cluster:
            # A lone worker with the same NaN: which virtual rank has it makes no difference.
            self.expect_success(cluster, SHORT, faults=["trainer.0/gradient@7:damage"])
            self.assertTrue((cluster.marks / "trainer.1-gradient@7-damage").exists())
            self.assertEqual([e["step"] for e in cluster.events("step_skipped")], [8])
            self.assertEqual(cluster.ask("status")["last_step"]["skipped"], 1)
            self.assertNotEqual(cluster.outcome()["state_digest"], self.lone_digest(SHORT))

    def test_a_flipped_bit_in_one_workers_state_is_found_named_and_repaired(self):
        with self.cluster(workers=3, settings=SHORT, faults=["trainer.1/state@6:damage"]) as cluster:
            cluster.wait_for_mark("trainer.1-state@6-damage")
            self.expect_success(cluster, SHORT)
            self.assertEqual({e["rank"] for e in cluster.events("state_differs")}, {1})
            self.assertEqual({e["cause"] for e in cluster.events("recovery")}, {"digest"})
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited"), [])

    def test_a_batch_that_crashes_every_trainer_ends_the_run_and_is_named(self):
        with self.cluster(settings=SHORT, faults=["trainer/forward@9:abort*"]) as cluster:
            codes = cluster.wait_for_end()
            self.assertEqual(codes, {0: 93, 1: 93}, cluster.stderr())
            outcome = cluster.outcome()
            self.assertEqual(outcome["state"], "FAILED")
            self.assertEqual(outcome["exit_code"], 93)
            self.assertRegex(outcome["reason"], r"iteration 9, virtual rank \d, samples at positions \d+ to \d+ \(.*jpg")
            cluster.wait_until_nobody_is_left()


class Precision(FaultsTest):
    def test_bf16_ends_with_the_same_bits_on_any_number_of_workers_after_kills_and_a_restart(self):
        bf16 = ("precision=bf16",)
        settings = (*SHORT, *bf16)
        for workers in (2, 3):
            with self.cluster(workers=workers, settings=settings, faults=["trainer.1/gate@4:kill"]) as cluster:
                cluster.wait_for_mark("trainer.1-gate@4-kill")
                self.expect_success(cluster, settings)
                self.assertEqual([e["cause"] for e in cluster.events("recovery")], ["trainer_killed"])
        run_dir = self.new_run_dir()
        with self.cluster(run_dir, settings=("max_steps=12", *bf16)) as cluster:
            self.assertEqual(cluster.wait_for_end(), {0: 0, 1: 0}, cluster.stderr())
        with self.cluster(run_dir, settings=settings) as cluster:
            self.expect_success(cluster, settings)
            self.assertEqual(cluster.events("resumed")[-1]["step"], 12)
        self.assertNotEqual(self.lone_digest(settings), self.lone_digest(SHORT))


class Mpirun(FaultsTest):
    """deploy/mpirun/pretrain.sh with two workers."""

    SETTINGS = LONG

    @contextlib.contextmanager
    def wrapper(self, run_dir, program=(ROOT / "deploy/mpirun/pretrain.sh",), extra=()):
        command = [*program, "-np", 2, *extra, "--config", ROOT / "tests/dist/tiny.yaml", "--run-dir", run_dir]
        for setting in (f"data.root={self.data}", *self.SETTINGS):
            command += ["--set", setting]
        with tempfile.TemporaryFile(mode="w+") as log:
            process = subprocess.Popen(
                [str(a) for a in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                start_new_session=True,
                env={**os.environ, "ALBEF_BIN": str(BIN), "OMP_WAIT_POLICY": "passive",
                     "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
            try:
                yield process, lambda: log.seek(0) or log.read()
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                send(signal.SIGKILL, *(p.pid for p in processes_of(run_dir)))

    def watch(self, run_dir):
        """A Cluster of no workers: its eyes only."""
        return Cluster(run_dir, self.data, workers=0)

    def test_signals_to_the_wrapper_end_the_run_in_order_and_the_same_command_goes_on(self):
        run_dir = self.new_run_dir()
        cluster = self.watch(run_dir)
        step = 0
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            with self.wrapper(run_dir, extra=["--"]) as (process, log):
                wait_until(lambda: cluster.step() > step + 5 or process.poll() is not None, "steps", log=log)
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=60), 75, log())
                outcome = cluster.outcome()
                self.assertEqual(outcome["state"], "PREEMPTED", log())
                self.assertTrue((run_dir / f"checkpoints/step-{outcome['step']:010d}").exists())
                step = outcome["step"]
                cluster.wait_until_nobody_is_left()
        with self.wrapper(run_dir, extra=["--"]) as (process, log):
            self.assertEqual(process.wait(timeout=120), 0, log())
        self.assertEqual(cluster.outcome()["state_digest"], self.lone_digest(self.SETTINGS))

    def test_term_to_mpirun_itself_loses_no_more_than_the_steps_since_the_checkpoint(self):
        run_dir = self.new_run_dir()
        cluster = self.watch(run_dir)
        with self.wrapper(run_dir, program=["mpirun", "--bind-to", "none", "--oversubscribe"],
                          extra=[BIN / "albef-worker"]) as (process, log):
            wait_until(lambda: cluster.step() > 25 or process.poll() is not None, "steps", log=log)
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            cluster.wait_until_nobody_is_left()
        with self.wrapper(run_dir, extra=["--"]) as (process, log):
            self.assertEqual(process.wait(timeout=120), 0, log())
        self.assertEqual(cluster.outcome()["state_digest"], self.lone_digest(self.SETTINGS))
        self.assertGreaterEqual(cluster.events("resumed")[-1]["step"], 20)

    def test_a_killed_mpirun_leaves_no_process(self):
        run_dir = self.new_run_dir()
        cluster = self.watch(run_dir)
        with self.wrapper(run_dir, program=["mpirun", "--bind-to", "none", "--oversubscribe"],
                          extra=[BIN / "albef-worker"]) as (process, log):
            wait_until(lambda: cluster.step() > 5 or process.poll() is not None, "steps", log=log)
            self.assertEqual(len(cluster.processes("albef-trainer")), 2)
            process.kill()
            process.wait()
            cluster.wait_until_nobody_is_left(limit_s=30)


class Coordinator(FaultsTest):
    def test_dies_at_every_write_to_its_ledger_and_nothing_is_lost(self):
        settings = ("max_steps=240", "schedular.epochs=60")
        faults = [f"coordinator/{phase}@{write}:kill" for write in range(2, 6)
                  for phase in ("ledger", "ledger_committed")]
        with self.cluster(external=True, settings=settings, faults=faults) as cluster:
            deaths = 0
            def start_again():
                nonlocal deaths
                if cluster.coordinator.poll() == -signal.SIGKILL:
                    deaths += 1
                    cluster.launch_coordinator()
            self.expect_success(cluster, settings, meanwhile=start_again)
            self.assertEqual(deaths, len(faults))
            # Training did not notice.
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])
            steps = [line["step"] for line in read_lines(cluster.run_dir / "metrics.jsonl")]
            self.assertEqual(steps, list(range(1, 241)))


class Operators(FaultsTest):
    """albefctl against the real run."""

    def test_pause_checkpoint_resume_and_stop(self):
        with self.cluster(settings=LONG) as cluster:
            cluster.wait_for_step(5)
            self.assertEqual(cluster.ask("pause")["state"], "PAUSED")
            step = cluster.ask("status")["step"]
            self.assertEqual(cluster.ask("resume")["state"], "RUNNING")
            code, stdout, stderr = cluster.ctl("checkpoint")
            self.assertEqual(code, 0, stderr)
            path = pathlib.Path(stdout.strip())
            self.assertTrue((path / "manifest.json").exists(), path)
            self.assertGreaterEqual(int(path.name.partition("-")[2]), step)
            self.assertIn(str(path), [c["path"] for c in cluster.ask("checkpoints")["checkpoints"]])
            self.assertIn(cluster.ask("stop")["state"], ("DRAINING", "STOPPED"))
            self.assertEqual(cluster.wait_for_end(), {0: 0, 1: 0}, cluster.stderr())
            self.assertEqual(cluster.ask("status")["state"], "STOPPED")
            cluster.wait_until_nobody_is_left()
            run_dir, before = cluster.run_dir, cluster.coordinator_pid()
        with self.cluster(run_dir, settings=LONG) as cluster:
            cluster.wait_until(lambda: cluster.coordinator_pid() != before, "coordinator of this attempt")
            watch = subprocess.run([BIN / "albefctl", "--run-dir", run_dir, "watch"], capture_output=True,
                                   text=True, check=False, timeout=120)
            self.assertEqual(watch.returncode, 0, watch.stderr)
            self.assertIn("SUCCEEDED", watch.stdout)
            self.expect_success(cluster, LONG)


if __name__ == "__main__":
    unittest.main(argv=sys.argv, verbosity=2)
