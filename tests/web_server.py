"""A web server on loopback that hides sizes, ignores ranges, or sends without an end."""

import contextlib
from http.server import BaseHTTPRequestHandler

from loopback import LoopbackServer

_PIECE = bytes(2**16)


class WebServer(LoopbackServer):
    """Serves `files` by path, whole whatever is asked for, without an etag or a time.

    Attributes:
        files: Content by path: bytes, or a number of zeros, or None for zeros without an end and without a size.
        told: The size in bytes that HEAD tells of some paths, in place of the right one.
        n_bytes: How much was sent.
    """

    def __init__(self, files):
        self.files, self.told, self.n_bytes = files, {}, 0
        super().__init__(_Handler)


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
                self.owner.n_bytes += len(piece)
                left -= len(piece)
                if left <= 0:
                    break

    def begin(self):
        if self.path not in self.owner.files:
            self.send_error(404)
            return b""
        content = self.owner.files[self.path]
        size = len(content) if isinstance(content, bytes) else content
        if self.command == "HEAD":
            size = self.owner.told.get(self.path, size)
        self.send_response_only(200)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        return content

    def log_message(self, *_):
        pass
