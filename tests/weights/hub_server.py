"""A stand-in for the hub's HTTP interface: repositories, commits, files; on this machine alone."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class HubServer:
    """Keeps `repositories`: name -> path -> bytes; `requests` are what was asked, in order."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.refuses = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"POST {self.path}")
        if self.hub.refuses:
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else ""
            self.hub.repositories.setdefault(name or asked["name"], {})
            return self._answer(200, {"url": f"{self.hub.address}/{name}"})
        if match := re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path):
            wanted = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                      for f in json.loads(body)["files"]]  # fmt: skip
            return self._answer(200, {"files": wanted})
        if match := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.repositories[match[1]][line["value"]["path"]] = content
            url = f"{self.hub.address}/{match[1]}/commit/{'a' * 40}"
            return self._answer(200, {"commitUrl": url, "commitOid": "a" * 40})
        return self._answer(200, {"errors": [], "warnings": []})  # of the model card's heading

    def do_HEAD(self) -> None:
        self._file()

    def do_GET(self) -> None:
        self._file()

    def _file(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repository = self.hub.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            return self._answer(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        if match[2] not in ("main", "a" * 40):
            return self._answer(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
        content = repository.get(match[3])
        if content is None:
            return self._answer(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": "a" * 40})

    def _answer(
        self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
