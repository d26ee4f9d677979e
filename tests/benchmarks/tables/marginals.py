"""A baseline: each column by itself. Noisy histograms of every column and class, and rows drawn from those.

A row adds 1 to one bin of each of the c columns' histograms, in its class; another row in its place moves each by at
most √2, so all of them together by √(2·c), and Gaussian noise of standard deviation √(2·c)/μ costs μ. What columns have
to do with each other is lost.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cadp.columns import TOP, Column, Table
from cadp.privacy.accountant import calibrate_gaussian, curve
from cadp.privacy.events import GaussianEvent
from cadp.privacy.noise import discrete_gaussian
from cadp.records import Batch

BINS = 8  # of a number; decided beforehand


def columns_alone(table: Table, rows: Batch, epsilon: float, delta: float) -> tuple[Batch, float]:
    """As many rows of each class, drawn from noisy histograms, and what they cost (replace-one, labels public)."""
    mu = calibrate_gaussian(epsilon, delta)
    while (cost := curve(GaussianEvent(mu=mu)).epsilon(delta)) > epsilon:
        mu *= 1 - 2.0**-20
    sigma = math.sqrt(2 * len(table.columns)) / mu
    generator = np.random.default_rng()  # of rows, once the histograms are noisy
    entries = rows.images.reshape(len(rows), -1)
    made = np.zeros_like(entries)
    for label in np.unique(rows.labels):
        own, at = np.flatnonzero(rows.labels == label), 0
        for column in table.columns:
            places, size = _places(column, entries[own, at : at + column.width])
            noisy = np.bincount(places, minlength=size) + discrete_gaussian(sigma, size)
            weights = np.maximum(noisy, 0) + (0 if noisy.max() > 0 else 1)
            drawn = generator.choice(size, len(own), p=weights / weights.sum())
            made[own, at : at + column.width] = _entries(column, drawn, size, generator)
            at += column.width
    return Batch(made.reshape(rows.images.shape), rows.labels, rows.valid), cost


def _places(column: Column, entries: NDArray[np.uint16]) -> tuple[NDArray[np.int64], int]:
    """The bin of every row, and how many there are."""
    if column.levels is None:
        return entries[:, 0].astype(np.int64) * BINS // (TOP + 1), BINS
    first = np.where(entries.any(axis=1), 0, TOP)[:, None]
    return np.concatenate([first, entries], axis=1).argmax(axis=1), len(column.levels)


def _entries(
    column: Column, places: NDArray[np.int64], size: int, generator: np.random.Generator
) -> NDArray[np.uint16]:
    """Entries `(n, width)` from somewhere in each bin."""
    if column.levels is None:
        return ((places + generator.random(len(places))) / size * TOP).astype(np.uint16)[:, None]
    return (TOP * np.eye(size, dtype=np.uint16)[places])[:, 1:]
