"""What the server answers: the page's own requests, and nothing else that Gradio could do."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FILE = "/gradio_api/file="
_JOIN = "/gradio_api/queue/join"  # asks for a run, with the page's values as JSON

#: What Gradio's page asks for; a path that ends in a separator stands for all that begin with it.
_PATHS = (
    "/",
    "/assets/",
    "/config",
    "/favicon.ico",
    "/gradio_api/cancel",
    _FILE,
    "/gradio_api/heartbeat/",
    "/gradio_api/queue/data",
    _JOIN,
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
    "/manifest.json",
    "/static/",
    "/theme.css",
)
_SEPARATORS = ("/", "=")

#: Browsers keep to this server, whatever the page or a picture's name should ask of them. Gradio
#: has its configuration in an inline script and makes functions of its templates.
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

#: Room in a request beside a file of the largest size: names, boundaries, the page's values.
_OVERHEAD_BYTES = 64 * 1024


class Guard:
    """Middleware that refuses what the page does not need.

    Gradio has more routes than a page uses: it records runs, converts videos and passes on what it
    fetches from elsewhere. And where a value should be an uploaded picture, it takes any address
    and, mounted in another application, any file of this machine.

    Args:
        app: The application behind it.
        hosts: Names and addresses under which the server is known, lower case; a page of another
            site, whose name is made to point here, is refused by them. None: any.
        upload_bytes: Size of the largest file that may be sent.
        uploads: The folder of what is uploaded and drawn, the only one whose files may be named.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str] | None, upload_bytes: int, uploads: Path
    ) -> None:
        self.app = app
        self.uploads = os.path.realpath(uploads)
        self.hosts = None if hosts is None else frozenset(hosts)
        self.most_bytes = upload_bytes + _OVERHEAD_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None and scope["path"].rstrip("/") == _JOIN:
            body = await _read(receive)
            if not self._names_uploads_only(body):
                refusal = PlainTextResponse("only uploaded files can be looked at", 403)
            receive = _replaying(body, receive)
        answer = refusal or self.app

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                taken = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [
                    *message["headers"],
                    *(header for header in extra if header[0] not in taken),
                ]
            await send(message)

        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if scope["type"] != "http":
            return PlainTextResponse("not here", 404)
        headers = Headers(scope=scope)
        if self.hosts is not None and _host(headers.get("host", "")) not in self.hosts:
            return PlainTextResponse("this server has another name", 421)
        if not _known(scope["path"]):
            return PlainTextResponse("not here", 404)
        if scope["path"].startswith(_FILE) and not self._is_upload(scope["path"][len(_FILE) :]):
            return PlainTextResponse("only the page's own pictures are here", 403)
        if scope["method"] == "POST":
            length = headers.get("content-length", "")
            if not length.isdecimal():
                return PlainTextResponse("say how much you send", 411)
            joins = scope["path"].rstrip("/") == _JOIN
            if int(length) > (_OVERHEAD_BYTES if joins else self.most_bytes):
                return PlainTextResponse("this is more than may be sent", 413)
        return None

    def _names_uploads_only(self, body: bytes) -> bool:
        """Whether all files in a request's values lie in the folder of uploads."""
        try:
            return all(self._is_upload(path) for path in _paths(json.loads(body or "null")))
        except (ValueError, RecursionError):  # no JSON, or lists in lists in lists
            return False

    def _is_upload(self, path: Any) -> bool:
        try:
            return os.path.realpath(path).startswith(self.uploads + os.sep)
        except (TypeError, ValueError):  # no path, or one with a zero in it
            return False


def _paths(value: Any) -> list[Any]:
    """All that is called ``path``, however deep, but for None."""
    if isinstance(value, list):
        return [path for part in value for path in _paths(part)]
    if not isinstance(value, dict):
        return []
    own = [value["path"]] if value.get("path") is not None else []
    return own + [path for part in value.values() for path in _paths(part)]


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Gives a request's body that was read already once more, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _host(header: str) -> str:
    """The name in a Host header, without its port, lower case; brackets of IPv6 stay."""
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdecimal() else header).lower()


def _known(path: str) -> bool:
    path = path.rstrip("/") or "/"
    return any(
        path == known or (len(known) > 1 and known.endswith(_SEPARATORS) and path.startswith(known))
        for known in _PATHS
    )
