"""A budget for reading: what is spent, reserved and left of every limit, and which release holds how much."""

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cadp.ledger import Budget
from cadp.ledger.budget import figure
from cadp.plan import HOLDOUT_SUFFIX
from cadp.privacy.plain_words import scientific
from cadp.settings import Settings
from cadp.show.bar import bar, legend
from cadp.show.opening import open_ledger

SCHEMA = 1
PARTS_DO_NOT_ADD_UP = (
    "The ε of each release is its own alone, and these do not add up to the whole: the ledger adds Rényi curves and "
    "reads the ε of their sum, which is mostly less than the sum of the ε's."
)
RESERVED_MEANS = (
    "Reserved is charged by releases that are not finished. It becomes spent when they are published or abandoned; "
    "no command gives it back."
)
_WIDEST_BAR = 60


@dataclass(frozen=True, slots=True)
class BudgetView:
    """Budgets for reading.

    Attributes:
        budgets: every population that was asked for, a holdout right behind the population it belongs to.
        newest: when each (population, release) last changed, ISO 8601 UTC.
    """

    budgets: tuple[Budget, ...]
    newest: dict[tuple[str, str], str]

    def to_json(self) -> dict[str, Any]:
        """For scripts: every figure as a number, every ε at its population's δ."""
        return {
            "schema": SCHEMA,
            "relation": "replace-one",
            "populations": [self._population(budget) for budget in self.budgets],
        }

    def _population(self, budget: Budget) -> dict[str, Any]:
        return {
            "population": budget.population,
            "holdout_of": holdout_of(budget.population),
            "unit": budget.unit,
            "epsilon": budget.epsilon,
            "delta": budget.delta,
            "charged": budget.charged,
            "spent": budget.spent,
            "reserved": budget.reserved,
            "left": budget.left,
            "spent_additive_delta": budget.spent_additive_delta,
            "additive_delta_cap": budget.additive_delta_cap,
            "additive_delta_left": budget.additive_delta_left,
            "releases": [
                {
                    "release": share.release,
                    "epsilon": share.epsilon,
                    "charges": share.charges,
                    "states": [str(state) for state in share.states],
                    "newest": self.newest.get((budget.population, share.release)),
                }
                for share in budget.releases
            ],
        }


def budget_view(settings: Settings, population: str | None = None) -> BudgetView:
    """Read the budgets of every population, or of one and its holdout.

    Raises:
        LedgerMissing: there is no ledger.
        LedgerError: there is no population of this name.
    """
    with open_ledger(settings) as ledger:
        names = [found.name for found in ledger.populations()]
        if population is not None:
            ledger.population(population)
            names = [name for name in names if population in (name, holdout_of(name))]
        budgets = [ledger.budget(name) for name in sorted(names, key=families)]
        return BudgetView(tuple(budgets), ledger.newest())


def print_budget(view: BudgetView, console: Console) -> None:
    """Print every population beside its holdout: figures, bars, and what each release holds."""
    if not view.budgets:
        console.print("Budget: nothing yet", highlight=False)
        return
    for family in _grouped(view.budgets):
        units = ", ".join(dict.fromkeys(budget.unit for budget in family))
        console.print(Text.assemble(("Budget of ", "bold"), (family[0].population, "bold")))
        console.print(Text(f"One unit is one {units}; neighbours differ in one unit (replace-one)."))
        for part in (_figures(family), _bars(family, console), _releases(family, view.newest)):
            console.print(part)
            console.print()
    for sentence in (PARTS_DO_NOT_ADD_UP, RESERVED_MEANS):
        console.print(Text(sentence))


def holdout_of(population: str) -> str | None:
    """Return the population that a holdout belongs to, or None for a population of its own."""
    return population.removesuffix(HOLDOUT_SUFFIX) if population.endswith(HOLDOUT_SUFFIX) else None


def _figures(family: list[Budget]) -> Table:
    table = _table("")
    for budget in family:
        table.add_column(Text(budget.population), justify="right", overflow="fold")
    rows = {
        "limit ε": [figure(budget.epsilon) for budget in family],
        "at δ": [scientific(budget.delta) for budget in family],
        "spent ε (published or burned)": [figure(budget.spent) for budget in family],
        "reserved ε (not finished)": [figure(budget.reserved) for budget in family],
        "left ε": [figure(budget.left) for budget in family],
        "additive δ limit (for samplers)": [_additive(budget.additive_delta_cap) for budget in family],
        "additive δ spent (by samplers)": [_additive(budget.spent_additive_delta) for budget in family],
        "additive δ left": [_additive(budget.additive_delta_left) for budget in family],
    }
    for what, values in rows.items():
        table.add_row(what, *values, style="bold" if what == "left ε" else "")
    return table


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table


def _bars(family: list[Budget], console: Console) -> Table:
    table = Table.grid(padding=(0, 1))
    longest = min(max(len(budget.population) for budget in family), max(12, console.width // 3))
    table.add_column(overflow="fold", width=longest)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    width = min(_WIDEST_BAR, max(10, console.width - longest - len("  100.0 % used")))
    for budget in family:
        used = min(budget.charged / budget.epsilon, 1)
        table.add_row(Text(budget.population), bar(budget, width), Text(f"{used * 100:.1f} % used"))
    table.add_row("", legend(), "")
    return table


def _releases(family: list[Budget], newest: dict[tuple[str, str], str]) -> Table:
    table = _table("by release")
    table.add_column("ε alone", justify="right", no_wrap=True)
    table.add_column("charges", justify="right")
    table.add_column("states", overflow="fold")
    table.add_column("newest change", no_wrap=True)
    for budget in family:
        table.add_row(
            Text(budget.population if budget.releases else f"{budget.population}: no release yet", style="dim")
        )
        for share in budget.releases:
            at = newest.get((budget.population, share.release), "–")
            states = ", ".join(map(str, share.states))
            cells = (f"  {share.release}", figure(share.epsilon), str(share.charges), states, at[:10])
            table.add_row(*map(Text, cells))
    return table


def _additive(delta: float) -> str:
    return scientific(delta) if delta else "0"


def families(name: str) -> tuple[str, bool]:
    """Return what sorts populations by name, each right before its holdout."""
    return holdout_of(name) or name, holdout_of(name) is not None


def _grouped(budgets: tuple[Budget, ...]) -> list[list[Budget]]:
    groups: dict[str, list[Budget]] = {}
    for budget in budgets:
        groups.setdefault(families(budget.population)[0], []).append(budget)
    return list(groups.values())
