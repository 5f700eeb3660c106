"""A driver in a process of its own, its workers, and the means to kill, stop and wake any of them."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

#: Every process of a run inherits it, and so is found however it is started.
_MARK = "FEATX_TEST_RUN"

_PATIENCE_SECONDS = 120


def main(source, folder, workers, late_seconds, fatal):
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

    options = featx.EmbedOptions(executor="ray", workers=int(workers), reporter=States(), max_bad=1.0)
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


class Run:
    """A driver and its workers.

    Args:
        source: The pictures.
        folder: The folder of the store.
    """

    def __init__(self, source, folder, *, workers=2, late_seconds=60, fatal=""):
        self.mark = secrets.token_hex(8)
        self.folder = Path(folder)
        self.parts = self.folder / "s.h5.parts"
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        self.output, self.log = (self.folder.with_suffix(suffix) for suffix in (".out", ".log"))
        with self.output.open("w") as output, self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", __file__, source, folder, str(workers), str(late_seconds), fatal],
                env={**os.environ, _MARK: self.mark, "PYTHONPATH": path},
                stdout=output,
                stderr=log,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for pid in self.list_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def list_processes(self, name=""):
        """List the processes of the run whose command begins with a name; workers are called `ray::Worker.embed`."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_ours = f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if is_ours and (folder / "cmdline").read_bytes().startswith(name.encode()):
                    found.append(int(folder.name))
        return found

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
                shard, pid = (
                    self.parts / path.name[1:].rpartition(".h5.")[0],
                    int(path.name.split(".")[-2].split("-")[0]),
                )
                os.kill(pid, signal.SIGSTOP)
                if path.exists() and not shard.with_name(shard.name + ".h5").exists():
                    return pid, shard.with_name(shard.name + ".h5")
                os.kill(pid, signal.SIGCONT)
            return None

        return self.wait_for(stop, seconds=0)

    def finish(self):
        """Wait for the end, and return the counts and the states of the workers; nothing may be left."""
        code = self.process.wait(_PATIENCE_SECONDS)
        assert code == 0, self.log.read_text()[-3000:]
        self.check_processes()
        return json.loads(self.output.read_text()), self.log.read_text().splitlines()

    def check_processes(self):
        """Check that all processes have ended, the driver's children soon after it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while left := self.list_processes():
            assert time.monotonic() < until, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
