"""Keeps a process, and the libraries in it that like to phone home, to this machine."""

import ipaddress
import os
import sys
from typing import Any


def stay_offline() -> None:
    """From now on, this process connects to nothing but its own machine; there is no way back.

    Gradio would ask for its newest version, report its use, and fetch any address that a visitor
    gives it in place of an upload.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.addaudithook(_refuse_foreign)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name ``localhost``, is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _refuse_foreign(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: raises where a connection would leave the machine."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "localhost"  # a path: a local socket
    elif event == "socket.getaddrinfo":
        host = arguments[0] or "localhost"
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not is_loopback(host):
        raise ConnectionRefusedError(f"{host}: this server works offline")
