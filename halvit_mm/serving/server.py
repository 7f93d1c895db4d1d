"""The server of the page: a port of this machine, a folder for uploads, and their end."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError
from .models import ModelSource, ServedModel, open_models
from .offline import is_loopback, stay_offline
from .room import keep_room
from .uploads import Example, Limits, find_examples

#: How long a stop waits for visitors' connections, in seconds.
_GRACE = 2
#: How many requests, and how many visitors, Gradio remembers; by default 10,000 of each.
_REMEMBERED = 256
#: How often the folder of pictures is looked after, in seconds.
_SWEEP = 10


def serve(
    sources: Sequence[ModelSource],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "cpu",
    examples: Path | None = None,
    limits: Limits | None = None,
) -> None:
    """Loads models and serves a page to try them, until Ctrl-C; for the main thread.

    Args:
        sources: The models, in the order of the page.
        host: Address to listen at; by default only this machine can reach the page, as it asks
            for no password.
        port: Port to listen at; 0 takes a free one.
        device: Where models run.
        examples: A folder of pictures that visitors can pick.
        limits: What visitors may send.

    Raises:
        UserError: A model cannot be loaded, the port is taken, there are no examples.
    """
    if find_spec("gradio") is None:
        raise UserError("Gradio, which makes the page, is not installed; pip install gradio")
    limits = limits or Limits()
    with (
        _listen(host, port) as listener,
        tempfile.TemporaryDirectory(prefix="halvit_mm_") as folder,
    ):
        if not is_loopback(host):
            print(
                f"warning: --host {host} lets everyone who reaches this machine use the page; "
                "it asks for no password",
                file=sys.stderr,
            )
        pictures, faults = find_examples(examples, limits=limits) if examples else ([], [])
        for fault in faults:
            print(f"left out: {fault}", file=sys.stderr)
        # Without it, a terminated process would leave its uploads behind.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        # Gradio serves what lies in these two folders, by default those of other programs as well.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_EXAMPLES_CACHE"] = str(Path(folder, "examples"))
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = str(_REMEMBERED)
        models = open_models(sources, device=device, tell=lambda text: print(text, flush=True))
        stay_offline()
        _run(listener, host, models, pictures, limits, uploads=Path(folder))


def _run(
    listener: socket.socket,
    host: str,
    models: Sequence[ServedModel],
    pictures: Sequence[Example],
    limits: Limits,
    *,
    uploads: Path,
) -> None:
    """Serves the page at an address until the process is told to stop."""
    import fastapi
    import gradio
    import uvicorn

    from .guard import Guard
    from .page import STYLE, build_page, theme

    app = fastapi.FastAPI(openapi_url=None)
    page = build_page(models, pictures, limits)
    page.state_session_capacity = _REMEMBERED
    page.has_launched = True  # only then does Gradio itself look at the files that requests name
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        css=STYLE,
        max_file_size=int(limits.megabytes * 2**20),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=False,
    )
    hosts = {"127.0.0.1", "localhost", "[::1]", host.lower()} if is_loopback(host) else None
    guard = Guard(app, hosts=hosts, upload_bytes=int(limits.megabytes * 2**20), uploads=uploads)
    config = uvicorn.Config(
        guard, log_level="warning", timeout_graceful_shutdown=_GRACE, lifespan="on"
    )
    address, port = listener.getsockname()[:2]
    name = f"[{address}]" if ":" in address else address
    print(f"open http://{name}:{port}/ in a browser; Ctrl-C stops", flush=True)

    def forget(gone: Collection[str]) -> None:
        for known in page.temp_file_sets:  # Gradio would remember their names
            known.difference_update(gone)

    with keep_room(
        uploads,
        age=60 * limits.keep_minutes,
        most_bytes=int(limits.keep_megabytes * 2**20),
        seconds=_SWEEP,
        forget=forget,
    ):
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address, so that a taken port is told before models load."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
            on_error.pop_all()
        return listener
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port} ({error.strerror}); choose others by --host "
            "and --port"
        ) from error
