"""The notebook on tying: executed, and compared with what is stored in it."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.xdist_group("notebook")  # so that one process executes it, once

#: Marks cells whose outputs are the same on every machine.
TAG = "same-everywhere"


@pytest.fixture(scope="module")
def stored(root) -> nbformat.NotebookNode:
    return nbformat.read(root / "examples/tying.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(stored, tmp_path_factory) -> nbformat.NotebookNode:
    """What comes out of it anew, away from the repository."""
    folder: Path = tmp_path_factory.mktemp("notebook")
    made = nbformat.from_dict(stored)
    for cell in code_cells(made):
        cell.outputs, cell.execution_count = [], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.delenv("MPLBACKEND", raising=False)
        NotebookClient(made, timeout=500, resources={"metadata": {"path": folder}}).execute()
    return made


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def pictures(notebook: nbformat.NotebookNode) -> list[str]:
    outputs = (out for cell in code_cells(notebook) for out in cell.outputs)
    return [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]


def test_what_is_stored_comes_out_again(stored, executed):
    """To the letter: formulas, gradients, counts of parameters, bytes and products."""
    marked = [
        c
        for c in zip(code_cells(stored), code_cells(executed), strict=True)
        if TAG in c[0].metadata.get("tags", [])
    ]
    assert len(marked) == 6
    for before, after in marked:
        assert printed(before) == printed(after) != "", before.id


def test_counts_are_those_of_the_documentation(executed):
    (counts,) = (printed(cell) for cell in executed.cells if cell.id == "counts")
    assert [line.split()[-1] for line in counts.splitlines()[1:]] == [
        *("21,665,664", "11,048,832", "11,065,824", "5,757,408"),
    ]


def test_models_learn_to_read_and_where_to_look(executed):
    said = {cell.id: printed(cell) for cell in code_cells(executed)}
    right = [float(share) for share in re.findall(r"([\d.]+)% of the held-out", said["training"])]
    assert len(right) == 3 and min(right) > 70
    first_layers = re.findall(r"(dense|tied) +layer 0: (\d+)%", said["shares"])
    assert [name for name, _ in first_layers] == ["dense", "tied"]
    assert min(int(share) for _, share in first_layers) > 40  # chance is 11


def test_it_is_whole_and_small(stored, executed, root):
    assert len(pictures(stored)) == len(pictures(executed)) == 2
    assert (root / "examples/tying.ipynb").stat().st_size < 300_000
    numbers = [cell.execution_count for cell in code_cells(stored)]
    assert numbers == list(range(1, len(numbers) + 1)), "run it from its beginning, then save it"
    errors = [
        out for cell in code_cells(stored) for out in cell.outputs if out.get("name") == "stderr"
    ]
    assert not errors, "warnings are no results"
