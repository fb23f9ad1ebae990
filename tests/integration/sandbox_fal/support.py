"""A client of the running sandbox, and a receiver of its webhooks."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx

KEY_A = "key-a:secret-a"
KEY_B = "key-b:secret-b"  # same account as KEY_A
KEY_OTHER = "key-c:secret-c"
EDIT = "fal-ai/nano-banana-2/edit"
CUTOUT = "fal-ai/birefnet/v2"
PROMPT = "on a marble slab"


def edit_body(**changes: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "image_urls": ["https://example.com/ring.jpg"], **changes}


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first truthy value of `condition`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("nothing happened in time")


class Fal:
    """Speaks the protocol as a worker would: follows the URLs it was given."""

    def __init__(self, base_url: str, key: str = KEY_A) -> None:
        self.base_url = base_url
        self.http = httpx.Client(
            base_url=base_url, headers={"authorization": f"Key {key}"}, timeout=30
        )
        self._others: list[Fal] = []

    def close(self) -> None:
        for client in (self, *self._others):
            client.http.close()

    def as_key(self, key: str) -> "Fal":
        other = Fal(self.base_url, key)
        self._others.append(other)
        return other

    def post(
        self,
        endpoint: str = EDIT,
        body: Mapping[str, Any] | None = None,
        *,
        webhook: str | None = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> httpx.Response:
        if webhook is not None:
            query = f"?fal_webhook={quote(webhook, safe='')}"
        content = edit_body() if body is None else body
        return self.http.post(f"/{endpoint}{query}", json=content, headers=headers)

    def submit(self, *args: Any, **options: Any) -> dict[str, Any]:
        response = self.post(*args, **options)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def wait_completed(self, ticket: Mapping[str, Any], seconds: float = 10.0) -> dict[str, Any]:
        def completed() -> Any:
            response = self.http.get(ticket["status_url"])
            return response.status_code == 200 and response.json()

        body: dict[str, Any] = wait_for(completed, seconds)
        return body

    def result(self, ticket: Mapping[str, Any], seconds: float = 10.0) -> httpx.Response:
        self.wait_completed(ticket, seconds)
        return self.http.get(ticket["response_url"])

    def cancel(self, ticket: Mapping[str, Any]) -> httpx.Response:
        return self.http.put(ticket["cancel_url"])

    # -- control ------------------------------------------------------------------------------

    def tune(self, **changes: Any) -> None:
        response = self.http.patch("/__control/config", json=changes)
        assert response.status_code == 200, response.text

    def fault(self, kind: str, *, match: Mapping[str, Any] | None = None, **rest: Any) -> None:
        rule = {"kind": kind, **({"match": match} if match else {}), **rest}
        response = self.http.post("/__control/faults", json=rule)
        assert response.status_code == 200, response.text

    def outage(self, kind: str, **rest: Any) -> str:
        """Its id."""
        response = self.http.post("/__control/outages", json={"kind": kind, **rest})
        assert response.status_code == 200, response.text
        return str(response.json()["id"])

    def heal(self, outage_id: str | None = None) -> None:
        path = "/__control/outages" if outage_id is None else f"/__control/outages/{outage_id}"
        assert self.http.delete(path).status_code == 200

    def ledger(self) -> dict[str, Any]:
        body: dict[str, Any] = self.http.get("/__control/ledger").json()
        return body

    def row(self, request_id: str) -> dict[str, Any]:
        rows = [row for row in self.ledger()["calls"] if row["request_id"] == request_id]
        assert len(rows) == 1
        found: dict[str, Any] = rows[0]
        return found

    def webhook_of(self, request_id: str) -> dict[str, Any]:
        body: dict[str, Any] = self.http.get(f"/__control/requests/{request_id}").json()
        webhook: dict[str, Any] = body["webhook"]
        return webhook


class Received:
    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.at = time.monotonic()
        self.path = path
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.raw = body

    @property
    def body(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.raw)
        return decoded


class Receiver:
    """Keeps what was posted; answers with `answers` in turn, then with 204."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[int] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.received.append(Received(self.path, dict(self.headers), body))
                self.send_response(outer.answers.pop(0) if outer.answers else 204)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def wait(self, count: int = 1, seconds: float = 10.0) -> list[Received]:
        wait_for(lambda: len(self.received) >= count, seconds)
        return self.received[:]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
