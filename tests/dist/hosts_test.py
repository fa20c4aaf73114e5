#!/usr/bin/env python3
"""Workers on several hosts with a network between them (hosts.py), and what can happen to that network. Each test
proves that its fault took place and compares the digest with that of a lone worker."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from cluster import IMPATIENT, TINY, Cluster, is_alive, make_data, wait_until
from harness import BIN, LIMIT_S, ROOT, read_lines
from hosts import HostCluster, Network, enter_own_namespaces

STEPS = 40
SETTINGS = (f"max_steps={STEPS}", "checkpoint.every_steps=5")
# What elastic.heartbeat_limit_s is in these runs.
HEARTBEAT_LIMIT_S = 2


class HostsTest(unittest.TestCase):
    """Four hosts. The second worker is held before iteration 4 until the fault is there."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="albef-hosts-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.network = cls.enterClassContext(Network(cls.folder, 4))
        cls.data = make_data(cls.folder / "data")

    def new_run_dir(self):
        return pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))

    def lone_digest(self):
        if not hasattr(HostsTest, "_lone_digest"):
            with Cluster(self.new_run_dir(), self.data, workers=1, settings=SETTINGS) as cluster:
                self.assertEqual(cluster.wait_for_end(), {0: 0}, cluster.stderr())
                HostsTest._lone_digest = cluster.outcome()["state_digest"]
        return HostsTest._lone_digest

    @contextlib.contextmanager
    def held(self, *, settings=(), **options):
        """A run with a worker on each of n1, n2 and n3; and what lets it go on."""
        mark = "trainer.1-forward@4-hold"
        with HostCluster(self.new_run_dir(), self.data, self.network, hosts=["n1", "n2", "n3"],
                         settings=(*SETTINGS, *settings), faults=["trainer.1/forward@4:hold"], **options) as cluster:
            cluster.wait_for_mark(mark)
            try:
                yield cluster, lambda: cluster.release(mark)
            finally:
                self.network.repair()

    def expect_success(self, cluster, *, ignore=()):
        codes = cluster.wait_for_end(ignore=ignore)
        self.assertFalse(any(codes.values()), f"{codes}\n{cluster.stderr()}")
        cluster.wait_until_nobody_is_left()
        self.expect_right_end(cluster)

    def expect_right_end(self, cluster):
        outcome = cluster.outcome()
        self.assertEqual(outcome["state"], "SUCCEEDED", f"{outcome}\n{cluster.stderr()}")
        self.assertEqual(outcome["state_digest"], self.lone_digest(), cluster.stderr())
        # Nobody trained beside the others.
        lines = read_lines(cluster.run_dir / "metrics.jsonl")
        self.assertEqual([line["step"] for line in lines], list(range(1, STEPS + 1)), cluster.stderr())
        generations = [line["generation"] for line in lines]
        self.assertEqual(generations, sorted(generations), cluster.stderr())

    def pause_without(self, cluster, host):
        """Waits until the others go on without it, and has them stand still."""
        cluster.wait_for_step(5)
        self.assertEqual(cluster.ask("pause")["state"], "PAUSED")
        members = sorted(w["host"] for w in cluster.members())
        self.assertEqual(members, [h for h in ("n1", "n2", "n3") if h != host], cluster.stderr())

    def go_on_with_all(self, cluster):
        """Ends the pause once everybody can take part, and expects that they do."""
        cluster.wait_until(lambda: sorted(w["state"] for w in cluster.ask("workers")["workers"])
                           == ["held", "held", "spare"], "return of the unplugged host")
        cluster.ask("resume")
        self.expect_success(cluster)
        self.assertEqual(cluster.events("membership")[-1]["workers"], 3, cluster.stderr())
        self.assertEqual(cluster.events("trainer_killed", "trainer_exited"), [])


class ExternalCoordinator(HostsTest):
    """On n4."""

    def test_three_hosts_end_with_the_digest_of_one_worker(self):
        before = {host: self.network.num_bytes(host) for host in self.network.hosts}
        with self.held(coordinator_host="n4") as (cluster, go_on):
            self.assertEqual(sorted(w["host"] for w in cluster.ask("workers")["workers"]), ["n1", "n2", "n3"])
            go_on()
            self.expect_success(cluster)
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])
            manifest = sorted((cluster.run_dir / "checkpoints").iterdir())[-1]
            state_bytes = sum(shard.stat().st_size for shard in manifest.glob("*.safetensors"))
        # Gradients cross the workers' cables, words that of the coordinator. A third of the state are weights, and
        # each of three workers sends and receives two thirds of their gradients twice over.
        crossed = {host: self.network.num_bytes(host) - before[host] for host in self.network.hosts}
        for host in ("n1", "n2", "n3"):
            self.assertGreater(crossed[host], STEPS * state_bytes / 6, crossed)
        self.assertLess(0, crossed["n4"], crossed)
        self.assertLess(crossed["n4"], crossed["n1"] / 4, crossed)

    def test_an_unplugged_host_is_left_behind_and_comes_back(self):
        with self.held(coordinator_host="n4") as (cluster, go_on):
            self.network.unplug("n3")
            silent_since = self.network.num_bytes("n3")
            go_on()
            cluster.wait_for_step(4)
            self.pause_without(cluster, "n3")
            self.assertEqual(self.network.num_bytes("n3"), silent_since)
            self.assertTrue(is_alive(cluster.trainer_pid(2)))  # and keeps what it has, until it is told what is next
            self.network.plug("n3")
            self.go_on_with_all(cluster)
            recovery, = cluster.events("recovery")
            self.assertEqual(recovery["cause"], "worker_lost")

    def test_a_host_that_stays_unplugged_ends_its_processes_by_itself(self):
        with self.held(coordinator_host="n4", settings=["elastic.coordinator_wait_s=3"]) as (cluster, go_on):
            trainer = cluster.trainer_pid(2)
            self.network.unplug("n3")
            go_on()
            self.pause_without(cluster, "n3")
            self.assertEqual(cluster.workers[2].wait(LIMIT_S), 1)
            wait_until(lambda: not is_alive(trainer), "end of the trainer", limit_s=5)
            self.assertIn("no coordinator for 3 s (elastic.coordinator_wait_s)", cluster.stderr())
            cluster.ask("resume")
            self.expect_success(cluster, ignore=[2])

    def test_two_hosts_that_cannot_reach_each_other_are_parted(self):
        with self.held(coordinator_host="n4", settings=["elastic.hang_limit_s=1"]) as (cluster, go_on):
            self.network.sever("n1", "n2")
            go_on()
            self.expect_success(cluster)
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited"), [])
            # The connection breaks, then cannot be made again.
            reasons = [e["reason"] for e in cluster.events("membership")]
            self.assertIn(f"rank 0 at {self.network.address['n1']}", reasons[-1])
            self.assertIn("cannot be reached", reasons[-1])
            self.assertEqual([e["workers"] for e in cluster.events("membership")][-1], 2, reasons)

    def test_two_hosts_that_reach_each_other_again_in_time_stay_together(self):
        with self.held(coordinator_host="n4", settings=["elastic.hang_limit_s=1"]) as (cluster, go_on):
            self.network.sever("n1", "n2")
            go_on()
            cluster.wait_until(lambda: cluster.ask("status")["generation"] == 2, "broken connection")
            self.network.heal("n1", "n2")
            self.expect_success(cluster)
            self.assertEqual([e["workers"] for e in cluster.events("membership")], [3, 3], cluster.stderr())
            self.assertEqual([e["cause"] for e in cluster.events("recovery")], ["communication"])

    def test_a_slow_cable_that_loses_packets_slows_the_run_down_and_kills_nobody(self):
        with self.held(coordinator_host="n4") as (cluster, go_on):
            self.network.slow_down("n3", rate="20mbit")
            go_on()
            self.expect_success(cluster)
            self.assertGreater(self.network.num_dropped("n3"), 0)
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])


class EmbeddedCoordinator(HostsTest):
    """On n1, started by the first worker; the names of the hosts mean an address of the loopback on themselves."""

    def coordinator(self, cluster):
        """(term, order of the worker that is its parent)"""
        process, = cluster.processes("albef-coordinator")
        parents = {worker.pid: order for order, worker in cluster.workers.items()}
        return cluster.term(), parents[process.parent]

    def test_an_unplugged_worker_takes_nothing_over(self):
        with self.held() as (cluster, go_on):
            self.network.unplug("n3")
            begin = time.monotonic()
            go_on()
            self.pause_without(cluster, "n3")
            # Its turn to take over would have come after 2 s of silence and 2 s + 2 × 1 s of patience.
            cluster.wait_until(lambda: time.monotonic() - begin > HEARTBEAT_LIMIT_S + 6, "time for a take-over")
            self.assertEqual(self.coordinator(cluster), (1, 0), cluster.stderr())
            cluster.ask("resume")
            # It reads in the run directory that the run has ended.
            self.expect_success(cluster)
            self.assertEqual(cluster.events("membership")[-1]["workers"], 2)

    def test_another_host_takes_over_from_an_unplugged_one_which_does_no_harm_when_it_comes_back(self):
        # A window in which n1 could take it back, were that waited out.
        with self.held(settings=["elastic.reattach_window_s=30"]) as (cluster, go_on):
            self.network.unplug("n1")
            go_on()
            cluster.wait_until(lambda: cluster.term() == 2, "second term")
            begin = time.monotonic()
            cluster.wait_for_step(5)
            self.assertLess(time.monotonic() - begin, 25, cluster.stderr())
            self.pause_without(cluster, "n1")
            # Whoever has claimed a term gets 10 s until he is met; n1 never meets him.
            cluster.wait_until(lambda: time.monotonic() - begin > 12, "time for a take-over")
            self.assertEqual(self.coordinator(cluster), (2, 1), cluster.stderr())
            self.network.plug("n1")
            self.go_on_with_all(cluster)
            self.assertEqual(cluster.term(), 2)


class Mpirun(HostsTest):
    """deploy/mpirun/pretrain.sh on the operator's machine, with one of mpirun's daemons on each host."""

    @contextlib.contextmanager
    def wrapper(self):
        """(a Cluster of no workers, the wrapper's process, what it says, what lets the run go on)"""
        cluster = Cluster(self.new_run_dir(), self.data, workers=0, faults=["trainer.1/forward@4:hold"])
        command = [ROOT / "deploy/mpirun/pretrain.sh", "--mca", "plm_rsh_agent", self.network.launch_agent(),
                   "--host", "n1,n2,n3", "-np", 3]
        environment = {"ALBEF_FAULT": " ".join(cluster.faults), "ALBEF_FAULT_DIR": str(cluster.marks),
                       "OMP_WAIT_POLICY": "passive"}
        for name in environment:
            command += ["-x", name]
        command += ["--", "--config", TINY, "--run-dir", cluster.run_dir, "--insecure"]
        for setting in (f"data.root={self.data}", *IMPATIENT, *SETTINGS):
            command += ["--set", setting]
        # What mpirun's daemons leave in /tmp is named after the host and mpirun's pid, and both come again.
        temporary = tempfile.mkdtemp(prefix="tmp-", dir=self.folder)
        with tempfile.TemporaryFile(mode="w+") as log:
            process = subprocess.Popen([str(a) for a in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=log, env={**os.environ, "ALBEF_BIN": str(BIN), "TMPDIR": temporary,
                                                        **environment})
            def read_log():
                log.seek(0)
                return log.read()
            mark = "trainer.1-forward@4-hold"
            try:
                wait_until(lambda: (cluster.marks / mark).exists() or process.poll() is not None, "iteration 4",
                           log=read_log)
                self.assertIsNone(process.poll(), read_log())
                yield cluster, process, read_log, lambda: cluster.release(mark)
            finally:
                self.network.repair()
                if process.poll() is None:
                    process.kill()
                process.wait()
                for host in self.network.hosts:
                    self.network.clear(host)  # of mpirun's daemons, whom nobody has told to end

    def test_three_hosts_end_with_the_digest_of_one_worker(self):
        with self.wrapper() as (cluster, process, read_log, go_on):
            self.assertEqual([(w["host"], w["rank"]) for w in cluster.members()], [("n1", 0), ("n2", 1), ("n3", 2)])
            go_on()
            self.assertEqual(process.wait(LIMIT_S), 0, read_log())
            self.expect_right_end(cluster)
            self.assertEqual(cluster.events("trainer_killed", "trainer_exited", "recovery"), [])
            cluster.wait_until_nobody_is_left()

    def test_the_first_host_is_unplugged_from_everybody_mpirun_too(self):
        with self.wrapper() as (cluster, process, read_log, go_on):
            self.network.unplug("n1")
            go_on()
            self.assertEqual(process.wait(LIMIT_S), 0, read_log())
            self.expect_right_end(cluster)
            self.assertEqual(cluster.term(), 2)
            self.assertEqual(cluster.events("membership")[-1]["workers"], 2)
            # One of mpirun's daemons may live on, nothing of the run.
            cluster.wait_until_nobody_is_left()


if __name__ == "__main__":
    enter_own_namespaces()
    unittest.main(argv=sys.argv, verbosity=2)
