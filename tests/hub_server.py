"""What `HfFileSystem` asks of the Hugging Face Hub, on loopback, for one data set in a folder."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from loopback import LoopbackServer

_API, _FILES = "/api/datasets/owner/name", "/datasets/owner/name/resolve/main/"


class HubServer(LoopbackServer):
    """Serves a folder as the main revision of `datasets/owner/name`; `requests` has the paths that were asked for."""

    def __init__(self, folder):
        self.folder, self.requests = folder, []
        super().__init__(_Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append(path)
        below = path.removeprefix(f"{_API}/tree/main").removeprefix(_FILES).strip("/")
        if path.removesuffix("/revision/main") == _API:
            self.send(200, json.dumps({"id": "owner/name", "_id": "1", "sha": "0" * 40, "siblings": []}).encode())
        elif path.startswith(f"{_API}/tree/main") and (self.owner.folder / below).is_dir():
            self.send(200, json.dumps(self.list_tree(below)).encode())
        elif path.startswith(_FILES) and (self.owner.folder / below).is_file():
            data, asked = (self.owner.folder / below).read_bytes(), self.headers.get("Range")
            start, end = asked.removeprefix("bytes=").split("-") if asked else (0, "")
            part = data[int(start) : int(end or len(data)) + 1]
            about = {"Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"}
            self.send(206 if asked else 200, part, about if asked else {})
        else:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound" if "/name" in path else "RepoNotFound"})

    def list_tree(self, below):
        is_deep = "recursive=true" in self.path.lower()
        found = (self.owner.folder / below).rglob("*") if is_deep else (self.owner.folder / below).iterdir()
        names = {path.relative_to(self.owner.folder).as_posix(): path for path in sorted(found)}
        return [
            {"type": "directory", "oid": "0", "size": 0, "path": name}
            if path.is_dir()
            else {
                "type": "file",
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),  # noqa: S324 - as git
                "size": path.stat().st_size,
                "path": name,
            }
            for name, path in names.items()
        ]

    def send(self, status, body, headers=None):
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
