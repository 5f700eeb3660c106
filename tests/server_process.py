"""Starts `featx serve` as a process, and talks to it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

#: What a server must not import: an image of it has none of these.
HEAVY = [
    "tensorflow",
    "keras",
    "sklearn",
    "skops",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "h5py",
    "joblib",
    "cleanlab",
]

CODE = """
import sys
sys.modules.update(dict.fromkeys({names!r}))
from featx.__main__ import main
main()
"""


class ServerProcess:
    """A running server without heavy packages; a `with` block ends it.

    Attributes:
        port: Its port.
        url: Its URL.
    """

    def __init__(self, *arguments, **environment):
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - __exit__ closes it
        code = CODE.format(names=HEAVY)
        command = [sys.executable, "-c", code, "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env={**os.environ, **environment}
        )
        line = self.process.stdout.readline()
        found = re.search(r"https?://localhost:(\d+)", line)
        assert found, f"{line}{self.read_log()}"
        self.port, self.url = int(found[1]), found[0]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()
        self._log.close()

    def stop(self):
        """Stop it as a service manager does, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.stdout.close()
        return self.process.wait()

    def read_log(self):
        self._log.flush()
        self._log.seek(0)
        return self._log.read()

    def count_bytes(self):
        """Count the bytes of memory that it has in use."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024

    def request(self, method, path, body=None, **headers):
        """Send a request, and return its status and its JSON, or its text."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=20)
        try:
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        is_json = (answer.headers["Content-Type"] or "").startswith("application/json")
        return answer.status, json.loads(content) if is_json else content

    def open(self):
        return socket.create_connection(("localhost", self.port), timeout=20)

    def send(self, data):
        """Send bytes, and return the status of the answer; 0 if the connection is closed without one."""
        with self.open() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return read_status(connection)


def read_status(connection):
    with contextlib.suppress(ConnectionError):
        line = connection.makefile("rb").readline()
        return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0
    return 0


def make_form(*parts):
    """Make a form of parts, each a name, a file name or None, and bytes; return its body and content type."""
    lines = []
    for name, file, data in parts:
        quoted = f'; filename="{file}"' if file is not None else ""
        lines.append(f'--XX\r\nContent-Disposition: form-data; name="{name}"{quoted}\r\n\r\n'.encode() + data + b"\r\n")
    return b"".join(lines) + b"--XX--\r\n", "multipart/form-data; boundary=XX"
