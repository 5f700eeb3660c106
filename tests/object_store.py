"""An S3 server on loopback, a proxy before it that breaks requests on purpose, and file systems to compare."""

import contextlib
import http.client
import itertools
import logging
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler

import numpy as np
from loopback import LoopbackServer

BUCKET = "bucket"

#: What a proxy does to a request.
PASS, ERROR, RESET, STALL = "pass", "error", "reset", "stall"


class ObjectStore:
    """An S3 server with one bucket, which fsspec's settings lead to through a proxy."""

    def __init__(self):
        import boto3
        import fsspec
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        port = self._server.get_host_and_port()[1]
        self.proxy = Proxy(port)
        self._earlier = dict(fsspec.config.conf)
        keys = {"key": "testing", "secret": "hidden-key"}
        direct = f"http://127.0.0.1:{self.proxy.port}"
        times = {"read_timeout": 2, "region_name": "us-east-1"}
        fsspec.config.conf["s3"] = {**keys, "endpoint_url": direct, "config_kwargs": times}
        names = dict(zip(("aws_access_key_id", "aws_secret_access_key"), keys.values(), strict=True))
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", **names)
        self.client.create_bucket(Bucket=BUCKET)
        self.web = f"http://127.0.0.1:{self.proxy.port}/{BUCKET}"

    def reset(self):
        """Let all requests pass, and forget those that were made."""
        self.proxy.choose = lambda *_: PASS
        self.proxy.counts.clear()
        self.proxy.requests.clear()

    def put(self, folder, key):
        """Write all files of a folder, or one file, below a key; return the URL."""
        for path in [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]:
            inside = key if folder.is_file() else f"{key}/{path.relative_to(folder).as_posix()}"
            self.client.put_object(Bucket=BUCKET, Key=inside, Body=path.read_bytes(), ACL="public-read")
        return f"s3://{BUCKET}/{key}"

    def close(self):
        """Stop the servers, and restore the settings of fsspec."""
        import fsspec

        fsspec.config.conf.clear()
        fsspec.config.conf.update(self._earlier)
        self.proxy.close()
        self._server.stop()


class Proxy(LoopbackServer):
    """A server that passes requests on to another, and counts them; `choose` says which fail, and how."""

    def __init__(self, port, stall_seconds=4.0):
        self.choose, self.stall_seconds = (lambda *_: PASS), stall_seconds
        self.counts, self.requests = Counter(), []
        self.to_port = port
        super().__init__(Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers one request, or does not."""

    protocol_version = "HTTP/1.1"

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.requests.append((self.command, self.path))
        fault = self.owner.choose(self.command, self.path)
        self.owner.counts[fault] += 1
        if fault == STALL:
            time.sleep(self.owner.stall_seconds)
        if fault in {STALL, RESET}:
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):  # the client may be gone
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        self.send(*((503, [], b"") if fault == ERROR else self.pass_on(body)))

    def pass_on(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.owner.to_port, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"connection", "expect"}}
        connection.request(self.command, self.path, body=body, headers=headers)
        answer = connection.getresponse()
        found = answer.status, answer.getheaders(), answer.read()
        connection.close()
        return found

    def send(self, status, headers, body):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", len(body))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def break_some(seed, errors=0.05, stalls=0.01):
    """Choose faults at random: errors and lost connections for a share of all requests, stalls for another."""
    draw, lock = np.random.default_rng(seed), threading.Lock()

    def choose(method, path):
        with lock:
            value, kind = draw.random(), draw.random()
        if value < stalls:
            return STALL
        return (ERROR if kind < 0.5 else RESET) if value < stalls + errors else PASS

    return choose


def break_each_first():
    """Fail the first request for every path, in turn by an error and by a lost connection."""
    seen, kinds, lock = set(), itertools.cycle([ERROR, RESET]), threading.Lock()

    def choose(method, path):
        with lock:
            if (method, path) in seen:
                return PASS
            seen.add((method, path))
            return next(kinds)

    return choose
