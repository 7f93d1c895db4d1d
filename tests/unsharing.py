"""What a MiniViT's weights are called in the same model with ``share=1``."""

import re

_OF_BLOCK = re.compile(r"(.*\bblocks)\.(\d+)\.(.+)")
_OF_STEP = re.compile(r"(norm1|norm2|mix_logits|mix_weights|rel_pos|local)\.(\d+)\.(.+)")


def names_of_copies(name: str, share: int) -> list[str]:
    """Names of what a weight of a block that serves ``share`` layers becomes.

    What each layer has for itself becomes one weight, what the layers share becomes ``share``.
    """
    if not (match := _OF_BLOCK.fullmatch(name)):
        return [name]
    blocks, block, rest = match[1], int(match[2]), match[3]
    if step := _OF_STEP.fullmatch(rest):
        return [f"{blocks}.{block * share + int(step[2])}.{step[1]}.0.{step[3]}"]
    return [f"{blocks}.{block * share + t}.{rest}" for t in range(share)]
