"""Tables and plots of the documentation against the stored logs: listing, checking, making."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..zoo.page import TABLE as ZOO
from ..zoo.page import make_table
from . import cost_tables, halving_tables, records, tables  # noqa: F401  they register their tables
from .experiments import Experiment
from .logs import Logs
from .pages import Block, blocks, fill, pages, write
from .plots import PLOTS, Plot
from .records import experiments_of
from .tables import TABLES, Table, table

table(ZOO, "zoo/*")(lambda logs: make_table(logs.folder / "zoo"))


@dataclass(frozen=True, kw_only=True)
class Site:
    """A repository's pages, plots and logs.

    Attributes:
        root: The repository's root.
    """

    root: Path

    @property
    def results(self) -> Path:
        """The folder of logs."""
        return self.root / "docs" / "results"

    @property
    def logs(self) -> Logs:
        """The logs as they are now."""
        return Logs(self.results)

    def image(self, plot: Plot) -> Path:
        """Where a plot is."""
        return self.root / "docs" / "images" / f"{plot.name}.png"

    def places(self) -> dict[str, list[str]]:
        """The pages on which each table stands.

        Raises:
            UserError: A page has a block that no table is called like, or an unpaired marker.
        """
        found: dict[str, list[str]] = {}
        for page in pages(self.root):
            name = page.relative_to(self.root).as_posix()
            for block in _blocks(page, name):
                if block.name not in TABLES:
                    raise UserError(f"{name}: no table is called {block.name}; see --list")
                found.setdefault(block.name, []).append(name)
        return found

    def stale(self) -> list[str]:
        """What does not agree with the logs, a sentence each."""
        logs, found = self.logs, records.faults(self.logs)
        for page in pages(self.root):
            name = page.relative_to(self.root).as_posix()
            found += [
                f"{name}: the table {block.name} is not what the logs say"
                for block in _blocks(page, name)
                if block.text.strip() != TABLES[block.name].make(logs).strip()
            ]
        for plot in PLOTS.values():
            if not plot.is_fresh(logs, self.image(plot)):
                found.append(f"{self.image(plot).name}: drawn from other logs than the stored ones")
        return found

    def make(
        self,
        names: Collection[str] = (),
        *,
        redraw: bool = False,
        tell: Callable[[str], None] = print,
    ) -> None:
        """Makes tables and plots anew, and the records' figures; what has not changed stays.

        Args:
            names: Of tables and plots; by default all.
            redraw: Draw plots whose logs have not changed as well.
            tell: Gets a line for what was written.

        Raises:
            UserError: A log is missing or damaged.
        """
        logs = self.logs
        self.places()
        for name in records.refresh_records(logs):
            tell(f"record of {name}")
        for page in pages(self.root):
            name, text = page.relative_to(self.root).as_posix(), page.read_text(encoding="utf-8")
            kept = {block.name: block.text.rstrip("\n") for block in _blocks(page, name)}
            new = fill(
                text,
                lambda table, kept=kept: (
                    TABLES[table].make(logs) if not names or table in names else kept[table]
                ),
            )
            if new != text:
                write(page, new)
                tell(name)
        for plot in PLOTS.values():
            wanted = not names or plot.name in names
            if wanted and (redraw or not plot.is_fresh(logs, self.image(plot))):
                plot.write(logs, self.image(plot))
                tell(self.image(plot).relative_to(self.root).as_posix())


def what(names: Collection[str]) -> list[Table | Plot]:
    """Tables and plots by name; all without one.

    Raises:
        UserError: Nothing is called so.
    """
    known: dict[str, Table | Plot] = {**TABLES, **PLOTS}
    for name in names:
        if name not in known:
            raise UserError(f"{name}: no table or plot is called so; see --list")
    return [known[name] for name in names or known]


def needed(names: Collection[str]) -> list[Experiment]:
    """The experiments behind tables, plots or logs, those that others need first.

    Raises:
        UserError: A name is none of a table, plot or experiment.
    """
    known: dict[str, Table | Plot] = {**TABLES, **PLOTS}
    patterns: list[str] = []
    for name in names or known:
        if name in known:
            patterns += known[name].logs
        elif experiments_of([name]):
            patterns.append(name)
        else:
            raise UserError(f"{name}: no table, plot or log is called so; see --list")
    return experiments_of(patterns)


def _blocks(page: Path, name: str) -> list[Block]:
    try:
        return blocks(page.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
