"""A web server on loopback that hides sizes, ignores ranges, or sends without an end."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PIECE = bytes(2**16)


class WebServer:
    """Serves `files` by path, whole whatever is asked for, without an etag or a time.

    Attributes:
        files: Content by path: bytes, or a number of zeros, or None for zeros without an end and without a size.
        told: The size in bytes that HEAD tells of some paths, in place of the right one.
        n_bytes: How much was sent.
    """

    def __init__(self, files):
        self.files, self.told, self.n_bytes = files, {}, 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"web": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.begin()

    def do_GET(self):
        content = self.begin()
        pieces = [content] if isinstance(content, bytes) else iter(lambda: _PIECE, b"")
        left = content if isinstance(content, int) else float("inf")
        with contextlib.suppress(OSError):  # the client has gone
            for piece in pieces:
                self.wfile.write(piece)
                self.web.n_bytes += len(piece)
                left -= len(piece)
                if left <= 0:
                    break

    def begin(self):
        if self.path not in self.web.files:
            self.send_error(404)
            return b""
        content = self.web.files[self.path]
        size = len(content) if isinstance(content, bytes) else content
        if self.command == "HEAD":
            size = self.web.told.get(self.path, size)
        self.send_response_only(200)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        return content

    def log_message(self, *_):
        pass
