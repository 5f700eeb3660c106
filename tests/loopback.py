"""Servers on loopback, in a thread of this process."""

import threading
from http.server import ThreadingHTTPServer


class LoopbackServer:
    """Serves until it is closed; each request is answered by a handler, which finds the server as `owner`."""

    def __init__(self, handler):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"owner": self}))
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # of clients that have gone
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
