"""The classifiers behind the p/o figure of tables: trained on released rows, tested on originals, by scikit-learn.

Both recipes are fixed before any row is released. They see rows as a reader of the release does, numbers and levels,
which is post-processing; a holdout's rows are seen the same way. Nothing here is charged but the one count.
"""

import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cadp.columns import Table, rows_in_columns
from cadp.errors import RejectedInput
from cadp.records import ENTRIES, Batch, Values

Kind = Literal["linear", "boosting"]


@dataclass(frozen=True, slots=True)
class TabularRecipe:
    """How a classifier of rows is trained.

    Attributes:
        kind: `linear`, multinomial logistic regression on standardised numbers and one-hot levels; or `boosting`,
            histogram gradient boosting of trees, with levels as categories.
        strength: of the linear one's L2 penalty, as 1/C.
        iterations: of the solver, and of trees at most.
        learning_rate: of the trees.
        leaves: of a tree, at most.
        leaf_rows: of a leaf, at least.
        seed: of the trees; the linear one needs none.
    """

    kind: Kind
    strength: float = 1.0
    iterations: int = 200
    learning_rate: float = 0.1
    leaves: int = 15
    leaf_rows: int = 20
    seed: int = 0

    def to_json(self) -> dict[str, object]:
        """The recipe as public JSON."""
        return asdict(self)


class TabularClassifier:
    """A trained classifier of rows, `(n, 1, 1, d)` uint16."""

    def __init__(self, model: Any, table: Table) -> None:  # noqa: ANN401  (scikit-learn has no types)
        self._model, self._table = model, table

    def predict(self, images: Values) -> NDArray[np.int64]:
        """The most likely class of each row, `(n,)` int64.

        Raises:
            RejectedInput: they are no rows of the table that it was trained on.
        """
        _check(images, self._table)
        with _one_thread():
            return np.asarray(self._model.predict(features(self._table, images)), dtype=np.int64)

    def correct(self, holdout: Batch) -> int:
        """How many rows get their own label; a rejected one never does.

        Each row's prediction is a function of that row alone, so one unit changes the count by its own term.
        """
        return int(np.count_nonzero((self.predict(holdout.images) == holdout.labels) & holdout.valid))


def train_tabular(
    images: Values, labels: NDArray[np.int64], classes: int, table: Table, recipe: TabularRecipe
) -> TabularClassifier:
    """Train on released rows.

    Args:
        images: `(n, 1, 1, d)` uint16, the rows' entries.
        labels: `(n,)` integers, `0 <= label < classes`.
        classes: how many classes the release declares.
        table: what the columns are.
        recipe: fixed in advance.

    Raises:
        RejectedInput: no rows, or labels that do not fit.
    """
    _check(images, table)
    if labels.shape != (len(images),) or len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
        raise RejectedInput(f"{len(images)} rows with labels {labels.shape}: one each, from 0 to {classes - 1}")
    model = _constant() if len(np.unique(labels)) == 1 else _model(table, recipe)
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a solver stopped at its last iteration is part of the recipe
        model.fit(features(table, images), labels)
    return TabularClassifier(model, table)


def features(table: Table, images: Values) -> NDArray[np.float64]:
    """Rows as a reader sees them, `(n, columns)` float64: numbers as released, levels by index."""
    vectors = images.reshape(len(images), table.width)
    columns = rows_in_columns(table, vectors)
    found = np.empty((len(images), len(table.columns)))
    for place, column in enumerate(table.columns):
        values = columns[column.name]
        known = {level: index for index, level in enumerate(column.levels or ())}
        found[:, place] = [known[str(value)] for value in values] if known else values
    return found


def _model(table: Table, recipe: TabularRecipe) -> Any:  # noqa: ANN401
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415  (part of the `release` extra)
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    categories = [place for place, column in enumerate(table.columns) if column.levels is not None]
    if recipe.kind == "boosting":
        return HistGradientBoostingClassifier(
            learning_rate=recipe.learning_rate,
            max_iter=recipe.iterations,
            max_leaf_nodes=recipe.leaves,
            min_samples_leaf=recipe.leaf_rows,
            categorical_features=categories or None,
            early_stopping=False,
            random_state=recipe.seed,
        )
    numbers = [place for place, column in enumerate(table.columns) if column.levels is None]
    known = [list(range(len(column.levels))) for column in table.columns if column.levels is not None]
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("levels", OneHotEncoder(categories=known), categories)]
    )
    return make_pipeline(columns, LogisticRegression(C=1 / recipe.strength, max_iter=recipe.iterations))


def _one_thread() -> Any:  # noqa: ANN401
    """Small tables gain nothing from a second thread, and on busy cores threads wait for each other at every tree."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (scikit-learn's own)

    return threadpool_limits(limits=1)


def _constant() -> Any:  # noqa: ANN401
    from sklearn.dummy import DummyClassifier  # noqa: PLC0415

    return DummyClassifier(strategy="most_frequent")


def _check(images: Values, table: Table) -> None:
    if images.dtype != ENTRIES or images.shape[1:] != table.shape:
        raise RejectedInput(f"rows of shape {images.shape[1:]} {images.dtype}; the table's are {table.shape} {ENTRIES}")
