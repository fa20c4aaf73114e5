"""A TCP proxy in front of one trainer's mesh, under the control of a test.

The trainer is told by its fault point `mesh_port` to give the others the proxy's port (`fault()`); the proxy finds
the port it really listens on in /proc. Connections can be cut, delayed and silenced.
"""
import contextlib
import os
import pathlib
import socket
import threading
import time


def sockets_of(pid):
    """Inodes of the sockets of a process."""
    found = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def listening_port(pid):
    """The TCP port on which a process listens; a trainer has but one."""
    listening = "0A"
    inodes = sockets_of(pid)
    for name in "tcp", "tcp6":
        for line in pathlib.Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == listening and fields[9] in inodes:
                return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError(f"process {pid} listens on no port")


class TcpProxy:
    """A context manager. `target_pid()`: the process whom connections are for, asked at each of them."""

    def __init__(self, order, target_pid):
        self._order = order
        self._target_pid = target_pid
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.num_connections = 0
        self.num_bytes = 0
        self.delay_s = 0.0  # of everything that passes, in both directions
        self._lock = threading.Lock()
        self._open = []  # of pairs of sockets
        self._silenced = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def fault(self):
        """For Cluster(faults=…)."""
        return f"trainer.{self._order}/mesh_port:value={self.port}*"

    def cut(self):
        """Closes what is open; how many connections that were."""
        with self._lock:
            cut, self._open = self._open, []
        for pair in cut:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(cut)

    def silence(self):
        """From now on nothing passes any more through what is open, and nobody is told."""
        with self._lock:
            self._silenced.update(self._open)
            return len(self._open)

    def _accept(self):
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                callee = socket.create_connection(("127.0.0.1", listening_port(self._target_pid())))
            except (OSError, AssertionError):
                caller.close()  # dialled again
                continue
            pair = (caller, callee)
            with self._lock:
                self.num_connections += 1
                self._open.append(pair)
            for source, sink in (pair, pair[::-1]):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._forward, args=(pair, source, sink), daemon=True).start()

    def _forward(self, pair, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                with self._lock:
                    if pair in self._silenced:
                        continue
                    self.num_bytes += len(data)
                if self.delay_s > 0:
                    time.sleep(self.delay_s)  # the fault itself
                sink.sendall(data)
        for end in pair:  # the end of one direction is that of the connection
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
