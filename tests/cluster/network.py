"""Two hosts in network namespaces of this machine, on one switch; they share its disk."""

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

#: What a command begins with that another host than the first runs: it has its own sockets and logs of Ray.
_SCRIPT = 'mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && exec "$@"'
_OWN_FOLDER = ("unshare", "--mount", "sh", "-c", _SCRIPT, "sh")


@dataclass(frozen=True)
class Host:
    """A host: its namespace, its address, and the commands that start others there."""

    name: str
    address: str
    prefix: tuple[str, ...]

    def has(self, pid):
        """Return whether a process runs there."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/ns/net").samefile(f"/run/netns/{self.name}")
        return False


class Network:
    """A switch and two hosts, while it is entered. Raises OSError where that is not allowed."""

    def __init__(self):
        self._switch, *names = (f"featx-{os.getpid()}-{name}" for name in ("switch", "first", "second"))
        self.hosts = [
            Host(name, f"10.77.0.{number + 1}", ("ip", "netns", "exec", name, *_OWN_FOLDER * number))
            for number, name in enumerate(names)
        ]

    def __enter__(self):
        try:
            self._build()
        except OSError:
            self._remove()
            raise
        return self

    def __exit__(self, *_):
        self._remove()

    def _build(self):
        switch = self._switch
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host in self.hosts:
            _run("ip", "netns", "add", host.name)
            port = f"to-{host.name.rpartition('-')[2]}"
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "eth0", "netns", host.name)
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _run("ip", "-n", host.name, "link", "set", link, "up")
            _run("ip", "-n", host.name, "route", "add", "default", "dev", "eth0")
            _run(*host.prefix, "true")

    def _remove(self):
        for name in (self._switch, *(host.name for host in self.hosts)):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    @contextlib.contextmanager
    def cut(self):
        """Cut the second host off, until the block ends."""
        _run("ip", "-n", self._switch, "link", "set", "to-second", "down")
        try:
            yield
        finally:
            _run("ip", "-n", self._switch, "link", "set", "to-second", "up")


def _run(*command):
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        msg = f"{' '.join(command)}: {ended.stderr.strip()}"
        raise OSError(msg)
