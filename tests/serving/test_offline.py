"""A process that stays on its machine."""

import subprocess
import sys

import pytest

from halvit_mm.serving.offline import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "[::1]", "localhost"])
def test_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.org"])
def test_other_machines(host):
    assert not is_loopback(host)


CODE = """
import socket, sys
sys.path.insert(0, 'halvit_mm/serving')  # without what the package imports
from offline import stay_offline
stay_offline()
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), timeout=5).close()
print("here")
for attempt in (
    lambda: socket.create_connection(("203.0.113.1", 80), timeout=5),
    lambda: socket.socket().connect(("203.0.113.1", 80)),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("203.0.113.1", 53)),
):
    try:
        attempt()
    except ConnectionRefusedError as error:
        print(error)
"""


def test_nothing_leaves(root):
    run = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    refused = [
        f"{host}: this server works offline"
        for host in ("203.0.113.1", "203.0.113.1", "example.org", "203.0.113.1")
    ]
    assert run.stdout.splitlines() == ["here", *refused]
