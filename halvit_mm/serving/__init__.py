"""A page in the browser to try models on pictures, without a network.

Needs Gradio (``pip install halvit_mm[serve]``), which nothing else imports.
"""

from .models import ModelSource, ServedModel, model_sources, open_models
from .uploads import Limits

__all__ = ["Limits", "ModelSource", "ServedModel", "model_sources", "open_models", "serve"]


def __getattr__(name: str) -> object:
    # Gradio takes a second to import; the mistakes in a command line are found without it.
    if name == "serve":
        from .server import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
