"""Reading the weights in a checkpoint, or saying why that is impossible."""

import functools
import http.server
import threading

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from halvit_mm.checkpoints import read_state_dict
from halvit_mm.checkpoints.reading import check_file, find_weights
from halvit_mm.errors import UserError


class RunsCode:
    def __reduce__(self):
        return print, ("this must never be printed",)


class ReachesIn:
    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_read_finds_the_weights_under_either_key_or_bare(tmp_path, key):
    weights = {"module.a": torch.ones(2), "b": torch.zeros(3)}
    torch.save({key: weights, "epoch": 3} if key else weights, tmp_path / "c.pth")
    found = read_state_dict(tmp_path / "c.pth")
    assert sorted(found) == ["a", "b"]
    assert torch.equal(found["a"], torch.ones(2))


def test_read_takes_what_mmengine_writes_beside_the_weights(tmp_path):
    hub = {"loss": HistoryBuffer([1.0, 2.0], [1, 1]), "lr": np.float64(0.1), "i": np.int64(3)}
    torch.save({"state_dict": {"a": torch.ones(2)}, "message_hub": hub}, tmp_path / "c.pth")
    assert list(read_state_dict(tmp_path / "c.pth")) == ["a"]


@pytest.mark.parametrize("beside", [RunsCode(), ReachesIn(), HistoryBuffer().update])
def test_read_refuses_a_pickle_that_would_run_code(tmp_path, capsys, beside):
    torch.save({"state_dict": {"a": torch.ones(2)}, "x": beside}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth: loading would run code.*weights_only=False"):
        read_state_dict(tmp_path / "c.pth")
    assert capsys.readouterr().out == ""
    assert list(read_state_dict(tmp_path / "c.pth", weights_only=False)) == ["a"]


def write_cut_off(path):
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def write_damaged(path):
    torch.save({"a": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    start = content.index(b"\x80\x02")  # of the pickle within the zip file
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "there is no such checkpoint"),
        (lambda path: path.mkdir(), "cannot read the checkpoint"),
        (lambda path: path.write_bytes(b""), "not a checkpoint of PyTorch"),
        (lambda path: path.write_text("<html>404</html>"), "not a checkpoint of PyTorch"),
        (lambda path: path.write_bytes(b"\x80\x02garbage"), "damaged"),
        (write_cut_off, "cut off"),
        (write_damaged, "damaged"),
        (lambda path: torch.save([torch.ones(2)], path), "holds a list"),
        (lambda path: torch.save({"meta": {"epoch": 3}}, path), "no weights"),
    ],
)
def test_read_says_what_is_wrong_with_a_file_in_one_line(tmp_path, write, reason):
    write(tmp_path / "c.pth")
    with pytest.raises(UserError, match=reason) as caught:
        read_state_dict(tmp_path / "c.pth")
    assert str(tmp_path / "c.pth") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_file_accepts_both_forms_of_torch_files(tmp_path):
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
        check_file(path)
        assert list(read_state_dict(path)) == ["a"]


def test_read_downloads_once(tmp_path, monkeypatch):
    site, cache = tmp_path / "site", tmp_path / "cache"
    site.mkdir()
    torch.save({"state_dict": {"a": torch.ones(2)}}, site / "epoch_1.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert list(read_state_dict(f"{address}/epoch_1.pth")) == ["a"]
        (site / "epoch_1.pth").unlink()
        assert list(read_state_dict(f"{address}/epoch_1.pth")) == ["a"]
        with pytest.raises(UserError, match="download failed"):
            read_state_dict(f"{address}/other/epoch_1.pth")
    finally:
        server.shutdown()
        server.server_close()


def test_averaged_weights_are_where_each_library_keeps_them():
    average, raw = {"a": torch.ones(1)}, {"module.a": torch.zeros(1)}
    mmengine = {"state_dict": average, "ema_state_dict": raw}
    for checkpoint in (mmengine, {"model": raw, "model_ema": average}):
        assert find_weights(checkpoint, "c.pth", ema=True)["a"] == 1
    with pytest.raises(UserError, match=r"c\.pth: the checkpoint has no averaged weights"):
        find_weights({"state_dict": raw}, "c.pth", ema=True)
