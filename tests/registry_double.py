"""A double of the Confluent Schema Registry: its REST API over real HTTP, for what the client's own mock leaves out.

No registry server can be had as a package, so this stands in for one: subjects, ids, the rule BACKWARD for records of
Avro, basic authentication, and the error codes of the real one (40403, 409, 401). The client under test is real.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class RegistryDouble:
    """Serves on a free port of the loopback until it is closed."""

    def __init__(self, user: str = "") -> None:
        self.schemas: list[dict[str, Any]] = []
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[str] = []
        self._expected = f"Basic {base64.b64encode(user.encode()).decode()}" if user else None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stops serving; connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: dict[str, Any], authorisation: str | None) -> tuple[int, Any]:
        """Status and body of one request."""
        self.requests.append(f"{method} {path}")
        if self._expected not in (None, authorisation):
            return 401, {"error_code": 401, "message": "Unauthorized"}
        if method == "POST" and (found := re.fullmatch(r"/subjects/([^/]+)/versions", path)):
            return self._register(found[1], body)
        if method == "GET" and (found := re.fullmatch(r"/schemas/ids/(\d+)", path)):
            index = int(found[1]) - 1
            if not 0 <= index < len(self.schemas):
                return 404, {"error_code": 40403, "message": f"Schema {found[1]} not found"}
            return 200, self.schemas[index]
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _register(self, subject: str, body: dict[str, Any]) -> tuple[int, Any]:
        versions = self.subjects.setdefault(subject, [])
        for schema_id in versions:
            if self.schemas[schema_id - 1] == body:
                return 200, {"id": schema_id}
        if versions and not reads(json.loads(body["schema"]), json.loads(self.schemas[versions[-1] - 1]["schema"])):
            return 409, {"error_code": 409, "message": f'Schema being registered is incompatible for "{subject}"'}
        self.schemas.append(body)
        versions.append(len(self.schemas))
        return 200, {"id": len(self.schemas)}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply({})

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *_: Any) -> None:
                pass

            def _reply(self, body: dict[str, Any]) -> None:
                path = self.path.partition("?")[0]
                status, answer = double.answer(self.command, path, body, self.headers["Authorization"])
                encoded = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

        return Handler


def reads(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """BACKWARD, for the top level of records: same types, and a default for what is new."""
    before = {field["name"]: field for field in old["fields"]}
    return all(
        field["type"] == before[field["name"]]["type"] if field["name"] in before else "default" in field
        for field in new["fields"]
    )
