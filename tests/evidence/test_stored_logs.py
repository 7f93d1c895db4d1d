"""Tables, plots and records agree with the logs; what does not is found and made anew."""

import json
import re
import shutil

import pytest

from halvit_mm.errors import UserError
from halvit_mm.evidence.experiments import EXPERIMENTS, UNREPEATABLE
from halvit_mm.evidence.plots import PLOTS
from halvit_mm.evidence.records import FACTS, metrics_of, read_record
from halvit_mm.evidence.site import Site, needed
from halvit_mm.evidence.tables import TABLES

#: Logs of tools that are repeated by themselves.
OTHERS = ("zoo/", "install/", "examples/")  # make_model_zoo.py, check_matrix.py, by hand
SCALARS = "cifar10_halvit_cpu_seed0/20261122_145528/vis_data/scalars.json"


def test_documentation_agrees_with_the_logs(root):
    assert Site(root=root).stale() == []


def test_all_tables_are_shown_somewhere(root):
    assert set(Site(root=root).places()) == set(TABLES)


def test_all_logs_have_complete_records(root):
    logs = Site(root=root).logs
    for name in logs.names:
        record = read_record(logs, name)
        assert set(FACTS) <= set(record), name
        if name in logs.trainings:
            assert record["metrics"] == metrics_of(logs, name), name
        if name not in UNREPEATABLE and not name.startswith("install/"):
            assert record["hardware"]["cpu"], name
            assert record["versions"]["torch"], name


def test_no_log_names_folders_of_a_machine(root):
    for file in (root / "docs/results").rglob("*.json"):
        assert not re.search(r"/(work|home|root)/", file.read_text()), file


def test_a_changed_log_shows(site, change):
    change(site.results / SCALARS, '"accuracy/top1": 40.7', '"accuracy/top1": 41.7')
    record, *pages = site.stale()
    assert record.startswith("cifar10_halvit_cpu_seed0: the metrics of its record are not")
    assert {page.split("the table ")[1].split(maxsplit=1)[0] for page in pages} == {
        "small_models", "cifar10"
    }  # fmt: skip
    assert all(page.endswith("is not what the logs say") for page in pages)
    written = []
    site.make(tell=written.append)
    assert written[0] == "record of cifar10_halvit_cpu_seed0"
    assert "docs/results.md" in written
    assert site.stale() == []
    assert "| HaLViT | 237,216 | 238,186 | 41.76, 39.75 |" in (
        site.root / "docs/results.md"
    ).read_text(encoding="utf-8")


def test_a_changed_table_shows(site, change):
    change(site.root / "docs/performance.md", "| 0.851 (", "| 0.841 (")
    assert site.stale() == [
        "docs/performance.md: the table benchmark_time is not what the logs say"
    ]
    site.make(["benchmark_memory"], tell=lambda _: None)
    assert len(site.stale()) == 1
    site.make(["benchmark_time"], tell=lambda _: None)
    assert site.stale() == []


def test_a_plot_is_drawn_anew_only_when_its_logs_change(site, change):
    image = site.image(PLOTS["demo_curves"])
    before = image.read_bytes()
    site.make(["demo_curves"])
    assert image.read_bytes() == before
    (scalars,) = (site.results / "digits_demo").rglob("scalars.json")
    change(scalars, '"coco/bbox_mAP": 0.502', '"coco/bbox_mAP": 0.402')
    assert "demo_curves.png: drawn from other logs than the stored ones" in site.stale()
    site.make(tell=lambda _: None)
    assert image.read_bytes() != before
    assert site.stale() == []


def test_missing_records_and_facts_show(site):
    (site.results / "digits_demo/run.json").unlink()
    record = site.results / "nuclei_small_cpu/run.json"
    content = json.loads(record.read_text())
    del content["versions"]
    record.write_text(json.dumps(content))
    assert site.stale()[:2] == [
        "digits_demo: no record tells what made it",
        "nuclei_small_cpu: its record lacks versions",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!-- table: nothing -->\n<!-- end -->\n", "README.md: no table is called nothing"),
        ("<!-- table: digits -->\n", "README.md: each <!-- table: NAME --> needs its"),
        ("<!-- end -->\n", "README.md: each <!-- table: NAME --> needs its"),
    ],
)
def test_wrong_markers(site, text, says):
    (site.root / "README.md").write_text(text)
    with pytest.raises(UserError, match=says):
        site.make()


def test_a_table_may_stand_on_several_pages(site):
    (site.root / "README.md").write_text("<!-- table: models -->\n<!-- end -->\n")
    site.make(tell=lambda _: None)
    assert site.places()["models"] == ["README.md", "docs/results.md"]
    assert "| HaLViT tiny | 11,048,832 | 11,433,832 |" in (site.root / "README.md").read_text()


def test_a_missing_log_is_one_sentence(site):
    (site.results / "windows_800x1333.json").unlink()
    with pytest.raises(UserError, match=r"windows_800x1333.json: .* this log is needed"):
        site.make(["windows"])
    shutil.rmtree(site.results / "nuclei_mini_deit_cpu")
    with pytest.raises(UserError, match="nuclei_mini_deit_cpu: there is no such folder"):
        site.make(["nuclei_minivit"])


def test_experiments_of_a_table():
    logs = [experiment.log for experiment in needed(["transfer"])]
    assert logs == [
        "nuclei_transfer_scratch_cpu",
        "tinyimagenet100_halvit_cpu_seed0",
        "nuclei_transfer_pretrained_cpu",
    ]
    assert [e.log for e in needed(["cifar10_halvit_cpu_seed1"])] == ["cifar10_halvit_cpu_seed1"]
    with pytest.raises(UserError, match="nothing: no table, plot or log is called so"):
        needed(["nothing"])


def test_every_log_has_its_commands_or_a_reason_why_not(root):
    logs = Site(root=root).logs
    made = set(EXPERIMENTS)
    for one in EXPERIMENTS.values():
        folder = one.log.rpartition("/")[0]
        made |= {
            f"{folder}/{name}".strip("/").removesuffix(".json") for name in one.products.values()
        }
    ours = {name for name in logs.names if not name.startswith(OTHERS)}
    assert ours - made == set(UNREPEATABLE)
    assert set(EXPERIMENTS) <= ours
