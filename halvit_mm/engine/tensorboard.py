"""TensorBoard beside whatever a config logs to."""

from mmengine.config import Config

from ..errors import UserError

_BACKEND = "TensorboardVisBackend"


def set_tensorboard(cfg: Config) -> None:
    """Adds TensorBoard to what the config's visualiser writes to.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard: TensorBoard cannot be imported ({error}); pip install tensorboard"
        ) from error
    if cfg.get("visualizer") is None:
        # What mmengine makes by default.
        cfg.visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
    backends = cfg.visualizer.get("vis_backends") or []
    if not any(_BACKEND in str(backend["type"]) for backend in backends):
        cfg.visualizer.vis_backends = [*backends, dict(type=_BACKEND)]
