"""What the server answers, and what not."""

import json
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from halvit_mm.serving.guard import Guard


async def answer(request):
    body = await request.body()
    return PlainTextResponse(f"{request.url.path} {len(body)}", headers={"referrer-policy": "own"})


APP = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def client(
    *, hosts=("127.0.0.1", "[::1]"), upload_bytes: int = 1000, uploads: Path = Path("/uploads")
) -> TestClient:
    guard = Guard(APP, hosts=hosts, upload_bytes=upload_bytes, uploads=uploads)
    return TestClient(guard, base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/config/",
        "/assets/index.js",
        "/gradio_api/file=/uploads/some/picture.png",
        "/gradio_api/upload",
        "/gradio_api/queue/join",
        "/theme.css?v=1",
    ],
)
def test_the_pages_requests_pass(path):
    assert client().get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/info",
        "/gradio_api/proxy=http://example.org/",
        "/gradio_api/process_recording",
        "/gradio_api/uploads",
        "/gradio_api/run/look",
        "/monitoring",
        "/configuration",
        "/docs",
        "/assetsx",
    ],
)
def test_all_else_is_refused(path):
    assert client().get(path).status_code == 404
    assert client().post(path, content=b"x").status_code == 404


def test_other_sites_names_are_refused():
    """A site may let its own name point to this machine, to get at the page from a browser here."""
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""):
        assert client().get("/", headers={"host": host}).status_code == 421, host
    for host in ("127.0.0.1", "127.0.0.1:7860", "[::1]:7860", "[::1]"):
        assert client().get("/", headers={"host": host}).status_code == 200, host
    assert client(hosts=None).get("/", headers={"host": "any.example"}).status_code == 200


def test_requests_are_limited_before_they_are_read():
    allowed = client(upload_bytes=100_000)
    assert allowed.post("/gradio_api/upload", content=b"x" * 100_000).status_code == 200
    assert allowed.post("/gradio_api/upload", content=b"x" * 200_000).status_code == 413

    def pieces():
        yield b"x"

    assert allowed.post("/gradio_api/upload", content=pieces()).status_code == 411


def picture(path) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_uploaded_files_may_be_named(tmp_path):
    (tmp_path / "uploads").mkdir()
    allowed = client(uploads=tmp_path / "uploads")
    for values in (
        [picture(str(tmp_path / "uploads" / "hash" / "a.png")), "model", 0.5],
        [None, "model", 0.5],
        [picture(None)],
    ):
        content = json.dumps({"data": values, "fn_index": 3})
        answer = allowed.post("/gradio_api/queue/join", content=content)
        assert answer.status_code == 200
        assert answer.text == f"/gradio_api/queue/join {len(content)}"  # all of it came through


def test_no_other_file_and_no_address_may_be_named(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (tmp_path / "uploads_of_others").mkdir()
    (uploads / "link.png").symlink_to("/etc/passwd")
    allowed = client(uploads=uploads)
    for path in (
        "/etc/passwd",
        "passwd",
        str(uploads),
        f"{uploads}/../secret.png",
        f"{uploads}_of_others/a.png",
        f"{uploads}/link.png",
        "http://example.org/a.png",
        ["/etc/passwd"],
    ):
        if isinstance(path, str):
            assert allowed.get(f"/gradio_api/file={path}").status_code == 403, path
        for values in ([picture(path)], [[{"deep": {"deeper": picture(path)}}]]):
            content = json.dumps({"data": values})
            for route in ("/gradio_api/queue/join", "/gradio_api/queue/join/"):
                assert allowed.post(route, content=content).status_code == 403, path
    for odd in (b"{", b"[" * 30_000, json.dumps([picture("a\0b")]).encode()):
        assert allowed.post("/gradio_api/queue/join", content=odd).status_code == 403
    large = json.dumps({"data": "x" * 100_000})
    assert allowed.post("/gradio_api/queue/join", content=large).status_code == 413


def test_every_answer_keeps_browsers_here():
    for path in ("/", "/docs"):
        headers = client().get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    # What the application says itself stays.
    assert client().get("/").headers.get_list("referrer-policy") == ["own"]
