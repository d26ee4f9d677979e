"""What a plan says of a table: how many columns are released, and what becomes of what its declarations do not hold."""

from cadp.columns import plain
from cadp.plan import Plan


def table_lines(plan: Plan) -> list[str]:
    """One line of a table; none of images."""
    table = plan.facts.table
    if table is None:
        return []
    numbers = sum(column.levels is None for column in table.columns)
    beyond = "are moved to the nearer bound" if table.outside == "clamp" else "make their row a reject"
    edges = table.label.edges
    cut = "" if edges is None else f", a number cut at {', '.join(map(plain, edges))}"
    return [
        f"Columns: {numbers} of numbers and {len(table.columns) - numbers} of categories, by declared bounds and "
        f"levels, in {table.width} entries; numbers beyond their bounds {beyond}. Label: {table.label.column}{cut}."
    ]
