"""Which tensors count as bad."""

import pytest
import torch

from halvit_mm.engine.finite import any_bad, bad_names, listed

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_one_bad_number_among_many_is_found(dtype, value):
    tensors = {name: torch.ones(40, 30, dtype=dtype) for name in "abc"}
    assert not any_bad(tensors.values())
    assert bad_names(tensors) == []
    tensors["b"][33, 7] = float(value)
    assert any_bad(tensors.values())
    assert bad_names(tensors) == ["b"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_numbers_are_fine(dtype):
    """The norm of these needs more than 16 bits."""
    large = torch.full((1000, 100), min(torch.finfo(dtype).max, 1e15), dtype=dtype)
    assert not any_bad([large, torch.ones(3)])
    assert bad_names({"large": large}) == []


def test_types_and_sizes_may_differ():
    tensors = [torch.ones(2, dtype=dtype) for dtype in DTYPES]
    assert not any_bad([*tensors, torch.ones(()), torch.ones(0)])
    assert any_bad([*tensors, torch.tensor(float("nan"))])
    assert not any_bad([])


def test_whole_numbers_are_never_bad():
    assert bad_names({"steps": torch.tensor(3)}) == []


def test_long_lists_are_cut():
    names = [f"n{i}" for i in range(7)]
    assert listed(names) == "n0, n1, n2, n3, n4 and 2 more"
    assert listed(names[:5]) == "n0, n1, n2, n3, n4"
    assert listed(names, most=7) == ", ".join(names)
