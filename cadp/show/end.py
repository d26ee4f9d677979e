"""The end of a release: where it lies, what it promises, what is left, how to load it."""

from rich.console import Console
from rich.markup import escape

from cadp.release import Summary


def print_summary(summary: Summary, console: Console) -> None:
    """Print the end of a release."""

    def line(text: str = "") -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    line()
    line(f"Release   {summary.release_url}")
    line()
    for text in summary.statement_lines:
        line(f"  · {text}")
    line()
    line(f"Accuracy  p/o {summary.accuracy}")
    for row in summary.budget_rows:
        line(
            f"Budget    {row['population']}: ε {row['left ε']} left of {row['limit ε']} "
            f"(spent {row['spent ε']}, reserved {row['reserved ε']})"
        )
    line()
    for text in summary.load_lines:
        line(f"  {text}")
    line()
