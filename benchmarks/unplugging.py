#!/usr/bin/env python3
"""How long the others stand still when a host is unplugged: figures for docs/performance.md.

    benchmarks/unplugging.py [--repeats 10] [--heartbeat-limits 5,2]

Three hosts as in tests/dist/hosts_test.py, one worker each, the model of tests/dist/tiny.yaml; the coordinator is
on a fourth host, then embedded. From the moment at which the cable is pulled to the first step of a later generation
in metrics.jsonl; then the host is plugged in again and everybody waited for. Root, or user namespaces.
"""
import argparse
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests/dist"))
from cluster import make_data  # noqa: E402
from harness import read_lines, spread  # noqa: E402
from hosts import HostCluster, Network, enter_own_namespaces  # noqa: E402

# Later settings win over those of Cluster.
SETTINGS = ("max_steps=1000000", "schedular.epochs=1000000", "checkpoint.every_steps=1000", "elastic.hang_limit_s=10",
            "elastic.reattach_window_s=10")
HOSTS = ["n1", "n2", "n3"]


def newest(cluster):
    return read_lines(cluster.run_dir / "metrics.jsonl")[-1]


def wait_for_all(cluster):
    cluster.wait_until(lambda: newest(cluster)["workers"] == len(HOSTS), "all workers")
    step = newest(cluster)["step"]
    cluster.wait_until(lambda: newest(cluster)["step"] >= step + 10, "10 steps")


def measure(network, folder, *, repeats, settings, hits_coordinator):
    """Seconds of each unplugging."""
    run_dir = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    samples = []
    with HostCluster(run_dir, folder / "data", network, hosts=HOSTS, settings=(*SETTINGS, *settings),
                     coordinator_host=None if hits_coordinator else "n4") as cluster:
        cluster.wait_for_step(1)
        while len(samples) < repeats:
            wait_for_all(cluster)
            time.sleep(random.uniform(0, 0.3))  # anywhere in a step and between two heartbeats
            where = json.loads((run_dir / "coordinator.json").read_text())["host"]
            host = where if hits_coordinator else random.choice(HOSTS)
            generation = newest(cluster)["generation"]
            begin = time.monotonic()
            network.unplug(host)
            # What was under way is in the file now or soon, and of the same generation.
            cluster.wait_until(lambda: newest(cluster)["generation"] > generation, "next commit")
            samples.append(time.monotonic() - begin)
            network.plug(host)
            print(f"{host} {samples[-1]:.2f} s", file=sys.stderr, flush=True)
    shutil.rmtree(run_dir)
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--heartbeat-limits", default="5,2")
    options = parser.parse_args()
    enter_own_namespaces()
    print("| unplugged | `elastic.heartbeat_limit_s` | unpluggings | next commit, median (least to most) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="albef-unplugging-") as name, Network(name, 4) as network:
        folder = pathlib.Path(name)
        make_data(folder / "data")
        for hits_coordinator in (False, True):
            for limit in options.heartbeat_limits.split(","):
                samples = measure(network, folder, repeats=options.repeats, hits_coordinator=hits_coordinator,
                                  settings=[f"elastic.heartbeat_limit_s={limit}"])
                what = "the host of the embedded coordinator" if hits_coordinator else "one of three workers' hosts"
                print(f"| {what} | {limit} | {len(samples)} | {spread(samples)} s |", flush=True)


if __name__ == "__main__":
    main()
