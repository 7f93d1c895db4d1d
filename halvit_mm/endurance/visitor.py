"""A visitor of the page without a browser: the requests that the page itself makes."""

import json
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_API = "/gradio_api"
_TIMEOUT = 120  # seconds


class PageError(Exception):
    """The page did not answer as it should."""


class Visitor:
    """Sends pictures, and asks for all that the page shows of each.

    Between its first and its last picture it keeps the connection open by which the page knows that
    somebody is there.

    Args:
        url: Address of the page.
    """

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._session = uuid.uuid4().hex[:12]
        self._connection = self._connect()
        config = json.loads(self._get("/config"))
        self._steps = _steps(config)
        values = {
            one["props"].get("elem_id"): one["props"].get("value") for one in config["components"]
        }
        self._model, self._threshold = values["model"], values["threshold"]
        self._presence = self._connect()
        self._presence.request("GET", f"{_API}/heartbeat/{self._session}")
        self._beats = self._presence.getresponse()

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *error: Any) -> None:
        self._beats.close()
        self._presence.close()
        self._connection.close()

    def send(self, picture: Path) -> list[Any]:
        """Sends a picture; returns message, drawing, classes, summary and table.

        Raises:
            PageError: It was not looked at.
        """
        path = self._upload(picture)
        file = {
            "path": path,
            "orig_name": picture.name,
            "size": picture.stat().st_size,
            "meta": {"_type": "gradio.FileData"},
        }
        receive, look, look_inside = self._steps
        shown, message = self._run(receive, [file])
        if shown is None:
            raise PageError(f"{picture}: {message}")
        seen = self._run(look, [shown, self._model, self._threshold])
        self._run(look_inside, [shown, self._model])
        return seen

    def _upload(self, picture: Path) -> str:
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; '
            f'filename="{picture.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return json.loads(self._post("/upload", body, kind))[0]

    def _run(self, step: int, values: list[Any]) -> list[Any]:
        """Has the page run one of its functions, and waits for what it gives."""
        wanted = {"data": values, "fn_index": step, "session_hash": self._session}
        self._post("/queue/join", json.dumps(wanted).encode(), "application/json")
        self._connection.request("GET", f"{_API}/queue/data?session_hash={self._session}")
        output = None
        for message in _messages(self._answer()):
            if message["msg"] == "process_completed":
                if not message["success"]:
                    raise PageError(f"step {step}: {message['output']}")
                output = message["output"]["data"]
        if output is None:
            raise PageError(f"step {step}: the page said nothing")
        return output

    def _get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        return self._answer().read()

    def _post(self, path: str, body: bytes, kind: str) -> bytes:
        self._connection.request("POST", _API + path, body, {"Content-Type": kind})
        return self._answer().read()

    def _answer(self) -> HTTPResponse:
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise PageError(f"{answer.status} {answer.read().decode(errors='replace')}")
        return answer

    def _connect(self) -> HTTPConnection:
        return HTTPConnection(self._host, timeout=_TIMEOUT)


def _steps(config: dict[str, Any]) -> tuple[int, int, int]:
    """The numbers of the page's functions: what follows an upload, and what follows that."""
    functions = config["dependencies"]
    (first,) = (
        one["id"] for one in functions if any(event == "upload" for _, event in one["targets"])
    )
    after = {one["trigger_after"]: one["id"] for one in functions}
    return first, after[first], after[after[first]]


def _messages(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    """Server-sent events until the stream ends."""
    for line in answer:
        if line.startswith(b"data:"):
            yield json.loads(line[len(b"data:") :])
