"""From the command to the page, without models."""

import socket
import sys

import pytest

from halvit_mm.errors import UserError
from halvit_mm.serving import server


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """What is done, in order, instead of doing it; the process stays as it is."""
    steps = []
    monkeypatch.setattr(server.signal, "signal", lambda *arguments: None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "GRADIO_ANALYTICS_MAX_EVENTS"):
        monkeypatch.setenv(name, "")
    for name in ("find_examples", "open_models", "stay_offline", "_run"):
        monkeypatch.setattr(server, name, lambda *a, name=name, **k: steps.append(name) or ([], []))
    return steps


def test_the_process_is_offline_before_it_answers(steps, tmp_path):
    server.serve([], port=0, examples=tmp_path)
    assert steps == ["find_examples", "open_models", "stay_offline", "_run"]


def test_a_missing_gradio_is_told(steps, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="Gradio, which makes the page, is not installed"):
        server.serve([], port=0)
    assert steps == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_own_addresses_need_no_warning(steps, capsys, host):
    if ":" in host and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    server.serve([], host=host, port=0)
    assert steps[-1] == "_run"
    assert capsys.readouterr().err == ""


def test_the_port_is_free_again_afterwards(steps):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*--port"):
            server.serve([], port=port)
    server.serve([], port=port)
    server.serve([], port=port)
    assert steps.count("_run") == 2


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
