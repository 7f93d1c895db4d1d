"""`tools/benchmark.py` as a whole process."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import run, start


@pytest.fixture
def tool(root) -> list:
    return [sys.executable, root / "tools/benchmark.py"]


def cells(path: Path) -> list:
    return json.loads(path.read_text())["cells"]


@pytest.mark.full
def test_quick(tool, tmp_path):
    """Every measure, on small models."""
    status, output, errors = run([*tool, "--quick", "--out", "out"], tmp_path)
    assert status == 0, errors
    found = {(cell["comparison"], cell["mode"]) for cell in cells(tmp_path / "out/benchmark.json")}
    assert found == {
        ("quick_halvit", "inference"),
        ("quick_halvit", "training"),
        ("quick_halvit", "sizes"),
        ("quick_mask_rcnn", "training"),
        ("quick_start_up", "start-up"),
    }
    text = (tmp_path / "out/benchmark.md").read_text()
    assert output.endswith(text)
    for section in ("Time", "Peak memory", "Bytes", "Share of the machine's peak", "Measured on"):
        assert f"## {section}" in text
    assert "Failed" not in text
    assert (tmp_path / "out/benchmark.png").stat().st_size > 10_000


def test_in_parts_and_together(tool, tmp_path):
    quick = [*tool, "--quick", "quick_halvit", "--rounds", "2", "--modes"]
    for mode in ("inference", "sizes"):
        status, output, errors = run([*quick, mode, "--json", f"{mode}.json"], tmp_path)
        assert status == 0, errors
        assert f"quick_halvit, {mode}" in output
    files = ["--from", "inference.json", "sizes.json"]
    status, output, errors = run([*tool, *files, "--out", "both"], tmp_path)
    assert status == 0, errors
    assert [cell["mode"] for cell in cells(tmp_path / "both/benchmark.json")] == [
        "inference", "sizes"
    ]  # fmt: skip
    assert "inference time" in output and "all-reduced, backbone" in output
    assert "bytes/s" in output  # the roofline
    assert (tmp_path / "both/benchmark.png").is_file()


def test_ctrl_c_keeps_what_is_measured(tool, tmp_path):
    batches = [str(number) for number in range(1, 40)]
    command = [*tool, "--quick", "quick_halvit", "--modes", "inference", "--batch", *batches]
    with start([*command, "--json", "x.json"], tmp_path) as process:
        try:
            deadline = time.monotonic() + 300
            while process.poll() is None and time.monotonic() < deadline:
                if (tmp_path / "x.json").exists() and cells(tmp_path / "x.json"):
                    break
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.strip().endswith("interrupted")
    assert "Traceback" not in errors
    kept = cells(tmp_path / "x.json")
    assert 1 <= len(kept) < 39
    assert len(kept[0]["models"][0]["measures"]["inference time"]) == 2


def test_what_fails_is_told_and_sets_the_status(tool, tmp_path):
    """A detector wants more memory than there is for this batch; so each of its models fails."""
    command = [*tool, "--quick", "quick_halvit", "--modes", "inference", "--batch", "100000000"]
    status, output, errors = run([*command, "--out", "out"], tmp_path)
    assert status == 2, errors
    assert "## Failed" in output
    assert "memory" in output
    assert cells(tmp_path / "out/benchmark.json")[0]["models"][0]["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing"], "error: there is no comparison 'nothing'; choose from halvit_nano"),
        (["--batch", "8", "0"], "--batch 0: give 1 or more"),
        (["--rounds", "-1"], "--rounds -1: give 1 or more"),
        (["--from", "absent.json"], "error: absent.json: No such file"),
        (["--from", "absent.json", "--list", "halvit_tiny"], "leave out the names"),
        (["halvit_tiny", "--chart", "x.jpg"], "error: x.jpg: the chart is a PNG"),
        (["halvit_tiny", "--channels-last"], "error: --channels-last is for convolutional"),
    ],
)
def test_mistakes_end_in_one_sentence(tool, tmp_path, options, message):
    status, output, errors = run([*tool, *options], tmp_path)
    assert (status, output) == (2, "")
    assert message in errors
    assert "Traceback" not in errors


def test_names_are_listed(tool, tmp_path):
    status, output, _ = run([*tool, "--list"], tmp_path)
    assert status == 0
    assert {"halvit_tiny", "half_resnet50", "mini_swin_base", "start_up"} <= set(output.split())
