"""Training and testing that give the same bits each time on the same machine."""

import os

from mmengine.config import Config

#: What is taken where the config sets no seed.
SEED = 0


def set_determinism(cfg: Config) -> list[str]:
    """Fixes the seed and lets PyTorch use operators that give the same bits each time, or none.

    mmengine chooses these operators when it sets the seed (``randomness``). cuBLAS looks for its
    setting in the environment when it is first used.

    Args:
        cfg: A config; it is changed.

    Returns:
        What there is to say about it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    randomness = dict(cfg.get("randomness") or {})
    seeded = randomness.get("seed") is not None
    cfg.randomness = {**randomness, "deterministic": True}
    cfg.merge_from_dict({"env_cfg.cudnn_benchmark": False})
    if seeded:
        return []
    cfg.randomness.seed = SEED
    return [f"--deterministic: the config sets no randomness.seed, {SEED} is taken"]
