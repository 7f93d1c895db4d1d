"""The table of ``docs/model_zoo.md``."""

import json
from pathlib import Path

from ..evidence.pages import fill, write
from ..evidence.tables import markdown
from .entries import ENTRIES
from .making import shown

TABLE = "zoo"


def write_page(page: Path, results: Path) -> None:
    """Makes the table of the zoo's page anew.

    Args:
        page: The page; its table stands between ``<!-- table: zoo -->`` and ``<!-- end -->``.
        results: Folder of the zoo's logs.
    """
    text = page.read_text(encoding="utf-8")
    write(page, fill(text, lambda name: make_table(results)))


def make_table(results: Path) -> str:
    """A row for each model that has a log, in Markdown."""
    header = ["model", "data", "parameters", "backbone", "fp16", "fp32", "file", "SHA-256"]
    rows = []
    for entry in ENTRIES.values():
        log = results / f"{entry.name}.json"
        if not log.exists():
            continue
        facts = json.loads(log.read_text())
        rows.append(
            [
                f"`{entry.name}`",
                f"{entry.dataset}, {facts['epochs']} epoch{'s' * (facts['epochs'] > 1)}",
                f"{facts['parameters']:,}",
                f"{facts['backbone_parameters']:,}",
                shown(entry, facts, "fp16"),
                shown(entry, facts, "fp32"),
                f"{facts['bytes'] / 1e6:.1f} MB",
                f"`{facts['sha256'][:16]}…`",
            ]
        )
    return markdown(header, rows)
