"""Several hosts on one machine: network namespaces, each with a name and an address of its own, on one bridge.

Everything lives in namespaces that the test makes for itself (`enter_own_namespaces`), so it needs root or user
namespaces, changes nothing outside, and leaves nothing behind, even when it is killed. The file system is shared, as
the run directory of a real cluster is.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from cluster import Cluster, is_alive, send, wait_until
from harness import BIN

TOOLS = ("ip", "tc", "unshare", "setpriv", "nsenter", "mount", "hostname")
NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
_INSIDE = "ALBEF_TEST_NAMESPACES"
# Where distributions keep `ip` for root alone.
_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

# Debian's installer gives a machine's own name to an address of the loopback; nobody else may be told that one.
_HOSTS_FILE = "127.0.0.1 localhost\n127.0.1.1 {own}\n{others}"
# A host: lives as long as its input is open.
_HOLDER = """
set -e
hostname "$1"
mount --bind "$2" /etc/hosts
ip link set lo up
echo ready
exec cat
"""


def enter_own_namespaces():
    """Starts this program again in namespaces of its own; returns in the copy. Ends it where that is not allowed."""
    if os.environ.pop(_INSIDE, None):
        return
    sys.stdout.flush()
    os.environ["PATH"] = _PATH
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        sys.exit(f"cannot simulate hosts: no {', '.join(missing)} here; deploy/install-deps.sh installs iproute2, the "
                 "rest is in Debian's util-linux, mount and hostname")
    # Root may have been denied the right to make them, as in a container, and still have user namespaces.
    ways = [("unshare",)] * (os.geteuid() == 0) + [("unshare", "--user", "--map-root-user")]
    failures = []
    for way in ways:
        command = [*way, *NAMESPACES]
        for link in ("type bridge", "type veth"):
            probe = subprocess.run([*command, "ip", "link", "add", *link.split()], check=False, text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if probe.returncode != 0:
                failures.append(f"  {' '.join(command)} ip link add {link}: {probe.stderr.strip()}")
                break
        else:
            # unshare itself heeds no signal but this one, and takes all with it.
            copy = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command, sys.executable, *sys.argv],
                                    env={**os.environ, _INSIDE: "1"})
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it goes to the copy, too
            sys.exit(copy.wait())
    sys.exit("\n".join([
        "cannot simulate hosts: namespaces with a bridge and veth pairs are not permitted here:", *failures,
        "Run it as root (in a container: with --privileged), or allow user namespaces: user.max_user_namespaces above 0, "
        "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0 where these exist. The "
        "kernel needs CONFIG_NET_NS, CONFIG_PID_NS, CONFIG_BRIDGE and CONFIG_VETH."]))


def _run(*command, check=True):
    done = subprocess.run([str(a) for a in command], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.returncode} {done.stderr}")
    return done.stdout


class Network:
    """Hosts n1, n2, … at 10.77.0.1, … and this process as the operator's machine at 10.77.0.254, all on one switch.

    To be used after enter_own_namespaces. A context manager.
    """

    SWITCH = "lan"

    def __init__(self, folder, num_hosts):
        self.folder = pathlib.Path(folder)
        self.hosts = [f"n{i}" for i in range(1, num_hosts + 1)]
        self.address = {host: f"10.77.0.{i}" for i, host in enumerate(self.hosts, 1)}
        self._holders = {}
        self._repairs = {}  # of the faults that are there

    def __enter__(self):
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", self.SWITCH, "type", "bridge")
        _run("ip", "address", "add", "10.77.0.254/24", "dev", self.SWITCH)
        _run("ip", "link", "set", self.SWITCH, "up")
        own = self.folder / "hosts-operator"
        own.write_text(_HOSTS_FILE.format(own=_run("hostname").strip(), others=self._others(None)))
        _run("mount", "--bind", own, "/etc/hosts")
        for host in self.hosts:
            self._add(host)
        return self

    def __exit__(self, *_):
        for host, holder in self._holders.items():
            # The kernel takes its time to remove those of a host that is gone.
            _run("ip", "link", "delete", self.port(host), check=False)
            holder.communicate()  # end of its input
        _run("umount", "/etc/hosts", check=False)
        _run("ip", "link", "delete", self.SWITCH, check=False)

    def _others(self, host):
        return "".join(f"{address} {name}\n" for name, address in self.address.items() if name != host)

    def _add(self, host):
        names = self.folder / f"hosts-{host}"
        names.write_text(_HOSTS_FILE.format(own=host, others=self._others(host)))
        holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--", "sh", "-c", _HOLDER, "host", host, str(names)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._holders[host] = holder
        if holder.stdout.readline() != b"ready\n":
            raise AssertionError(f"host {host} could not be made; its message is above")
        _run("ip", "link", "add", self.port(host), "type", "veth", "peer", "name", "eth0", "netns", holder.pid)
        _run("ip", "link", "set", self.port(host), "master", self.SWITCH, "up")
        self.run(host, "ip", "address", "add", f"{self.address[host]}/24", "dev", "eth0")
        self.run(host, "ip", "link", "set", "eth0", "up")

    def port(self, host):
        """The switch's end of the host's cable."""
        return f"port-{host}"

    def on(self, host, *command):
        """The command line that runs `command` there, in the process that it is started as."""
        return ["nsenter", "--target", str(self._holders[host].pid), "--net", "--uts", "--mount", "--", *command]

    def run(self, host, *command, check=True):
        """Runs to the end; its stdout."""
        return _run(*self.on(host, *command), check=check)

    def clear(self, host):
        """Kills whatever runs there."""
        holder = self._holders[host].pid
        place = os.readlink(f"/proc/{holder}/ns/net")
        def others():
            for entry in pathlib.Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if (entry.name.isdigit() and int(entry.name) != holder and os.readlink(entry / "ns/net") == place
                            and is_alive(int(entry.name))):
                        yield int(entry.name)
        def are_gone():
            pids = list(others())
            send(signal.SIGKILL, *pids)
            return not pids
        wait_until(are_gone, f"end of everything on {host}", limit_s=30)

    def launch_agent(self):
        """A program that mpirun can use instead of ssh."""
        cases = "\n".join(f"  {host}) pid={holder.pid} ;;" for host, holder in self._holders.items())
        agent = self.folder / "launch-agent"
        agent.write_text("#!/bin/sh\nhost=$1\nshift\ncase $host in\n" + cases +
                         '\n  *) echo "no host $host" >&2; exit 1 ;;\nesac\n'
                         'exec nsenter --target "$pid" --net --uts --mount -- sh -c "$*"\n')
        agent.chmod(0o755)
        return agent

    # --- faults ---

    def unplug(self, host):
        """Pulls the cable: nothing comes or goes any more, and nobody is told."""
        _run("ip", "link", "set", self.port(host), "down")
        self._repairs[f"unplug {host}"] = lambda: self.plug(host)

    def plug(self, host):
        _run("ip", "link", "set", self.port(host), "up")
        del self._repairs[f"unplug {host}"]

    def sever(self, one, other):
        """What these two send each other goes to a station that does not exist; both reach everybody else."""
        for here, there in ((one, other), (other, one)):
            self.run(here, "ip", "neighbour", "replace", self.address[there], "lladdr", "02:00:00:00:00:77", "dev", "eth0",
                     "nud", "permanent")
        self._repairs[f"sever {one} {other}"] = lambda: self.heal(one, other)

    def heal(self, one, other):
        for here, there in ((one, other), (other, one)):
            self.run(here, "ip", "neighbour", "delete", self.address[there], "dev", "eth0")
        del self._repairs[f"sever {one} {other}"]

    def slow_down(self, host, *, rate):
        """In both directions; what does not fit into a queue of 5 ms is lost."""
        shape = ("root", "tbf", "rate", rate, "burst", "16k", "latency", "5ms")
        _run("tc", "qdisc", "add", "dev", self.port(host), *shape)
        self.run(host, "tc", "qdisc", "add", "dev", "eth0", *shape)
        self._repairs[f"slow {host}"] = lambda: self.speed_up(host)

    def speed_up(self, host):
        _run("tc", "qdisc", "delete", "dev", self.port(host), "root")
        self.run(host, "tc", "qdisc", "delete", "dev", "eth0", "root")
        del self._repairs[f"slow {host}"]

    def num_dropped(self, host):
        """Packets that a slow cable has lost, since it is slow."""
        shown = (_run("tc", "-json", "-statistics", "qdisc", "show", "dev", self.port(host)),
                 self.run(host, "tc", "-json", "-statistics", "qdisc", "show", "dev", "eth0"))
        return sum(qdisc["drops"] for text in shown for qdisc in json.loads(text))

    def repair(self):
        """Ends all faults, and what they leave behind for a moment: a host that looked for another one in vain tells
        a program at once that there is no way, up to a second after the cable is back, and mpirun's daemons give up."""
        for repair in list(self._repairs.values()):
            repair()
        _run("ip", "neighbour", "flush", "dev", self.SWITCH)
        for host in self.hosts:
            self.run(host, "ip", "neighbour", "flush", "dev", "eth0")

    def num_bytes(self, host):
        """That went through its cable, in both directions."""
        stats = json.loads(_run("ip", "-json", "-stats", "link", "show", self.port(host)))[0]["stats64"]
        return stats["rx"]["bytes"] + stats["tx"]["bytes"]


class HostCluster(Cluster):
    """A Cluster whose workers are where `hosts` says, one entry each; `coordinator_host`: of an external coordinator.

    Started as srun would over several nodes.
    """

    def __init__(self, run_dir, data, network, *, hosts, coordinator_host=None, **options):
        super().__init__(run_dir, data, workers=len(hosts), hosts=hosts, external=coordinator_host is not None, **options)
        self.network = network
        self.coordinator_host = coordinator_host

    def launch_coordinator(self):
        command = [BIN / "albef-coordinator", "--run-dir", self.run_dir, "--listen", "0.0.0.0:0", "--insecure"]
        self.coordinator = self._popen("coordinator", self.network.on(self.coordinator_host, *command), {})

    def worker_command(self, order):
        return self.network.on(self.hosts[order], *super().worker_command(order), "--insecure")

    def worker_environment(self, order, of, host):
        environment = super().worker_environment(order, of, host)
        del environment["ALBEF_HOST"]
        return {**environment, "SLURM_STEP_NUM_NODES": str(len(set(self.hosts))), "SLURM_LOCALID": "0"}
