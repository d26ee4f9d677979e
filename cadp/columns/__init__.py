"""Tables: what a spec declares of their columns, and the public map between rows and vectors."""

from cadp.columns.declared import KEY, Column, Label, Table, plain, slug
from cadp.columns.rows import TOP, encode_row, label_of, row_values, rows_in_columns

__all__ = [
    "KEY",
    "TOP",
    "Column",
    "Label",
    "Table",
    "encode_row",
    "label_of",
    "plain",
    "row_values",
    "rows_in_columns",
    "slug",
]
