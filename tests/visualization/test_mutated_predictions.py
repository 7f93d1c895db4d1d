"""Files of predictions that are damaged or made by an attacker: no code in them runs."""

import pickle
import random

import mmengine
import numpy as np
import pytest
import torch
from hostile_pickles import code
from mutated_files import watched

from halvit_mm.errors import UserError
from halvit_mm.visualization.dumps import read_predictions

SAMPLES = [
    {
        "img_id": i,
        "img_path": f"images/{i}.png",
        "ori_shape": (64, 64),
        "scale_factor": (1.0, np.float64(2.0)),
        "pred_instances": {
            "bboxes": torch.rand(3, 4, generator=torch.Generator().manual_seed(i)),
            "scores": torch.tensor([0.9, 0.5, 0.1]),
            "labels": torch.tensor([0, 1, i]),
            "masks": [{"size": [64, 64], "counts": bytes(range(200, 240))}] * 3,
        },
        "gt": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "seen": np.bool_(True),
        "pair": torch.ones(2, 3).t(),
    }
    for i in range(5)
]


def same(found, expected) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            same(found[key], value) for key, value in expected.items()
        )
    if isinstance(expected, list | tuple):
        pairs = zip(found, expected, strict=True)
        return type(found) is type(expected) and all(same(*pair) for pair in pairs)
    if isinstance(expected, torch.Tensor | np.ndarray):
        return found.dtype == expected.dtype and bool((found == expected).all())
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", range(6))
def test_all_that_tests_write_comes_back(tmp_path, protocol):
    path = tmp_path / "p.pkl"
    if protocol == 5:  # arrays have another form there, which mmengine does not write
        mmengine.dump(SAMPLES, path)
    else:
        path.write_bytes(pickle.dumps(SAMPLES, protocol=protocol))
    assert same(read_predictions(path), SAMPLES)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_code_in_predictions_runs(tmp_path, protocol):
    canary, path = tmp_path / "canary", tmp_path / "p.pkl"
    for mutation in code(canary):
        mutation.write(path)
        with watched(), pytest.raises(UserError):
            read_predictions(path)  # what torch wrote is no list
        assert not canary.exists(), mutation.name
    for call in hostile(canary):
        path.write_bytes(pickle.dumps([{"a": call}], protocol=protocol))
        with pytest.raises(UserError, match="loading would"):
            read_predictions(path)
        assert not canary.exists(), call


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(canary):
    import os
    import subprocess

    within = pickle.dumps(Calls(os.system, f"touch {canary}"), protocol=2)
    return [
        Calls(os.system, f"touch {canary}"),
        Calls(eval, f"open({str(canary)!r}, 'w')"),
        Calls(subprocess.Popen, ["touch", str(canary)]),
        Calls(torch.load, str(canary)),
        Calls(np.save, str(canary), 1),
        Calls(pickle.loads, within),
        Calls(getattr, np.ndarray, "tofile"),
    ]


def nested_storage(canary) -> bytes:
    """A tensor whose storage is a file of torch within the pickle, and that runs code."""
    import io
    import os

    buffer = io.BytesIO()
    call = Calls(os.system, f"touch {canary}")
    torch.save(call, buffer, _use_new_zipfile_serialization=False)
    return pickle.dumps([{"a": Calls(torch.storage._load_from_bytes, buffer.getvalue())}], 2)


UNFOLDS = {
    "memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "bytes": b"\x80\x04]\x8e\xff\xff\xff\xff\xff\xff\xff\x0fa.",
    "number": b"\x80\x02]\x8b\xff\xff\xff\x7f1.",
    "array": b"\x80\x02]cnumpy\ndtype\nX\x06\x00\x00\x00f8,f8,\x85Ra.",
    "attributes of a class": b"\x80\x02cnumpy\nndarray\n}X\x05\x00\x00\x00valueK\x01sb.",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("name", [*UNFOLDS, "nested storage", "laughs"])
def test_small_files_do_not_unfold(tmp_path, name):
    canary, path = tmp_path / "canary", tmp_path / "p.pkl"
    laughs = [{"a": 1}]
    for _ in range(40):
        laughs = [laughs] * 10
    made = {"nested storage": nested_storage(canary), "laughs": pickle.dumps([{"a": laughs}])}
    path.write_bytes(made.get(name) or UNFOLDS[name])
    with watched(megabytes=500), pytest.raises(UserError):
        read_predictions(path)
    assert not canary.exists()


def test_damaged_predictions_are_refused_or_of_the_same_kind(tmp_path):
    """A pickle has no checksum: a flipped bit in a number is a number."""
    path, rng = tmp_path / "p.pkl", random.Random(0)
    content = pickle.dumps(SAMPLES, protocol=2)
    for i in range(300):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed if i % 3 else content[: rng.randrange(len(content))])
        try:
            with watched():
                samples = read_predictions(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(sample, dict) for sample in samples)
