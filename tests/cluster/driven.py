"""A driver in a process of its own, its workers, and the means to kill, stop and wake any of them."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_PATIENCE_SECONDS = 300


def main(source, folder, workers, late_seconds, fatal, handover, address):
    """Embed on Ray, with views so that shards take a while, and print the states of the workers and the counts."""
    import featx
    from featx.cluster import driver

    driver.LATE_FACTOR, driver.LATE_SECONDS = 0, float(late_seconds)
    manifest = featx.read_source(source)
    if fatal:
        manifest = make_fatal(manifest, fatal)

    class States(featx.Reporter):
        last = ""

        def describe(self, state):
            if state != self.last:
                sys.stderr.write(f"{state}\n")
            self.last = state

    options = featx.EmbedOptions(
        executor="ray", ray_address=address, workers=int(workers), reporter=States(), max_bad=1.0, handover=handover
    )
    result = featx.embed(manifest, "colour", **VIEWS, name="s", folder=folder, options=options)
    sys.stdout.write(json.dumps(result.to_dict()))


#: Rows of 20 kB, so that a shard takes a moment to embed and to write.
VIEWS = {"views": 20, "augmentation": "flip"}


class FatalReader:
    """A reader whose process dies when it reads one file, as on a picture that crashes the decoder."""

    def __init__(self, reader, fatal):
        self.reader, self.fatal = reader, fatal

    def stat(self, item_id):
        return self.reader.stat(item_id)

    def read(self, item_id, n_bytes=None):
        if item_id == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.reader.read(item_id, n_bytes)


def make_fatal(manifest, fatal):
    from dataclasses import replace

    from driven import FatalReader  # by the name under which workers import it

    return replace(manifest, reader=FatalReader(manifest.reader, fatal))


class Family:
    """Processes that were started in one folder, and all that they start there.

    Args:
        folder: Their working folder, in which nothing else runs.
    """

    def __init__(self, folder):
        self.place = folder

    def list_processes(self, name=""):
        """List the processes whose command begins with a name; workers are called `ray::Worker.embed`."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = (process / "cwd").readlink() == self.place
                if is_ours and (process / "cmdline").read_bytes().startswith(name.encode()):
                    found.append(int(process.name))
        return found

    def check_ended(self):
        """Check that all processes have ended, or soon do."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while left := self.list_processes():
            assert time.monotonic() < until, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            time.sleep(0.1)

    def kill(self):
        """Kill those that are left."""
        for pid in self.list_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def start_cluster(folder, hosts=(), **settings):
    """Start Ray with a token of its own, and yield its address; drivers find the token beside it.

    Args:
        folder: The working folder of its processes.
        hosts: Those of a network; without any, it has two cores of this machine.
        settings: Ray's own, such as `health_check_period_ms`.
    """
    from ray.util import get_node_ip_address  # under which Ray looks for it, even if told 127.0.0.1

    with socket.socket() as probe:
        probe.bind(("", 0))
        address = f"{hosts[0].address if hosts else get_node_ip_address()}:{probe.getsockname()[1]}"
    (folder / "token").write_text(secrets.token_hex(32))
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"))
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": make_path()}
    # Else workers wait for everything else that the machine does.
    env |= {f"RAY_{name}": str(value) for name, value in {"worker_niceness": 0, **settings}.items()}
    try:
        for host in hosts or [None]:
            command = [*(host.prefix if host else ()), Path(sys.executable).with_name("ray"), "start"]
            command += [f"--num-cpus={1 if host else 2}", f"--object-store-memory={100 << 20}"]
            command += [f"--node-ip-address={host.address}"] if host else []
            is_head = host in {None, *hosts[:1]}
            command += ["--head", f"--port={address.rpartition(':')[2]}"] if is_head else [f"--address={address}"]
            command += ["--include-dashboard=false"] if is_head else []
            subprocess.run(
                command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL, timeout=_PATIENCE_SECONDS
            )
        yield address
    finally:
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]
        family = Family(folder)
        while family.list_processes():
            family.kill()
            time.sleep(0.1)


def make_path():
    """Return the folders in which workers and drivers find the modules of tests."""
    here = Path(__file__).parent
    return os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])


class Run(Family):
    """A driver and its workers.

    Args:
        source: The pictures.
        folder: The folder of the store, alone in the working folder of the driver.
        address: The cluster; empty for one that the driver starts.
        prefix: What the command of the driver begins with.
    """

    def __init__(self, source, folder, address="", *, workers=2, late_seconds=60, fatal="", handover="", prefix=()):
        super().__init__(folder.parent)
        self.parts = folder / "s.h5.parts"
        self.output, self.log = (folder.with_suffix(suffix) for suffix in (".out", ".log"))
        arguments = [str(value) for value in (source, folder, workers, late_seconds, fatal, handover, address)]
        with self.output.open("w") as output, self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-W", "error", __file__, *arguments],
                cwd=self.place,
                env={**os.environ, "PYTHONPATH": make_path()},
                stdout=output,
                stderr=log,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.kill()

    def wait_for(self, what, *, seconds=0.02):
        """Wait until a function returns something, and return it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while not (found := what()):
            assert time.monotonic() < until, f"waited in vain; {self.log.read_text()[-3000:]}"
            assert self.process.poll() is None, f"the driver ended; {self.log.read_text()[-3000:]}"
            time.sleep(seconds)
        return found

    def list_shards(self):
        return sorted(self.parts.glob("[0-9]*.h5"))

    def stop_in_write(self):
        """Stop a worker that has begun to write a shard and not finished; return its process and the shard."""

        def stop():
            for path in self.parts.glob(".*.tmp"):
                shard = self.parts / f"{path.name[1:].rpartition('.h5.')[0]}.h5"
                pid = int(path.name.split(".")[-2].split("-")[0])
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it was killed while it wrote
                    os.kill(pid, signal.SIGSTOP)
                    is_alive = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if is_alive and path.exists() and not shard.exists():
                        return pid, shard
                    os.kill(pid, signal.SIGCONT)
            return None

        return self.wait_for(stop, seconds=0)

    def finish(self):
        """Wait for the end, and return the counts and the states of the workers; nothing may be left."""
        code = self.process.wait(_PATIENCE_SECONDS)
        assert code == 0, self.log.read_text()[-3000:]
        self.check_ended()
        return json.loads(self.output.read_text()), self.log.read_text().splitlines()


if __name__ == "__main__":
    main(*sys.argv[1:])
