"""The private fit: sums over the records in integers, discrete Gaussian noise, and the network they determine."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from cadp.cinn.fit import components as components_of
from cadp.cinn.fit import contributions as add
from cadp.cinn.fit import lloyd, tones
from cadp.cinn.fit.estimate import class_factors, class_means, class_sizes, principal_axes, residual_stds
from cadp.cinn.fit.plan import MomentsPlan, Query
from cadp.cinn.layers.transforms import band_of_coefficients
from cadp.cinn.network import ConditionalFlow
from cadp.errors import PrivacyError
from cadp.privacy.noise import discrete_gaussian
from cadp.records import ENTRIES, PIXELS, Batch, at_once, top
from cadp.reporter import Reporter

__all__ = ["MomentsPlan", "Query", "fit_moments"]

CHUNK = 2048
Steps = NDArray[np.float64]
Sums = NDArray[np.int64]
Rows = tuple[torch.Tensor, torch.Tensor, NDArray[np.int64], NDArray[np.bool_]]


def fit_moments(
    batches: Callable[[], Iterable[Batch]],
    plan: MomentsPlan,
    class_counts: NDArray[np.int64] | None,
    reporter: Reporter,
    *,
    records: int | None = None,
) -> ConditionalFlow:
    """Fit a conditional flow to private records at the cost of `plan.event()`.

    Reads the records three times, once more for every iteration of a mixture, for its covariances and for the tone
    curve, and never holds more than a batch. Where
    labels are public, so are the counts: a rejected record counts in its class and contributes zero. Where they are
    private, the plan asks for noisy counts, which take the counts' place everywhere, and a rejected record contributes
    zero to them too.

    Args:
        batches: opens one pass over all records, images of the plan's shape.
        plan: what is clipped, how much noise, which network.
        class_counts: `(classes,)` public records of each label, rejected ones included; None if labels are private.
        reporter: told how far each pass is.
        records: how many records there are, public, where `class_counts` is None.

    Returns:
        The fitted flow, float64.

    Raises:
        PrivacyError: a pass does not hold as many records, exact integer sums are not possible, or true class counts
            are given where labels are private.
    """
    return _Fit(batches, plan, class_counts, reporter, records).run()


class _Fit:
    """One fit: the passes over the records and the flow as it is built up."""

    def __init__(
        self,
        batches: Callable[[], Iterable[Batch]],
        plan: MomentsPlan,
        class_counts: NDArray[np.int64] | None,
        reporter: Reporter,
        records: int | None,
    ) -> None:
        architecture = plan.architecture
        self.batches, self.plan, self.public, self.reporter = batches, plan, class_counts, reporter
        if plan.counts is None and class_counts is not None and records is None:
            if class_counts.shape != (architecture.classes,) or class_counts.min() < 0:
                raise PrivacyError(f"class counts {class_counts.tolist()}: {architecture.classes} non-negative counts")
            self.total, self.counts = int(class_counts.sum()), class_counts
        elif plan.counts is not None and class_counts is None and records is not None:
            # The noisy counts take this place before it is read.
            self.total, self.counts = records, np.zeros(architecture.classes, dtype=np.int64)
        else:
            raise PrivacyError("a fit takes class counts where labels are public, else the number of records alone")
        self.architecture = architecture
        self.flow = ConditionalFlow(architecture)
        self.bands = band_of_coefficients(architecture.shape, architecture.block, architecture.bands)
        for query in plan.queries:
            # Forty standard deviations of noise: a discrete Gaussian never gets there.
            add.check_total(self.total, query.bound + math.ceil(40 * query.sigma / max(self.total, 1)))

    def run(self) -> ConditionalFlow:
        """Ask the queries; each uses what the earlier ones returned."""
        with torch.no_grad():
            self._fit_means()
            stds = self._fit_rotation()
            self._fit_whitening_and_scales(stds)
            if self.plan.spread is not None:
                self._fit_mixture(stds, self.plan.spread)
            if self.plan.tones is not None:
                self._fit_tones(self.plan.tones)
        return self.flow

    def _rows(self, label: str) -> Iterator[Rows]:
        """One pass: pixels `(n, d)` float64 in [0, 1], labels as tensor and as array, and which rows are valid."""
        seen = np.zeros_like(self.counts)
        with self.reporter.progress(label, self.total, "records") as advance:
            for batch in self.batches():
                if batch.images.dtype not in (PIXELS, ENTRIES):
                    # Not a formality: the sensitivity of the class sums rests on values that are not negative.
                    raise PrivacyError(f"images of {batch.images.dtype}: the fit takes 8-bit images, uint8, or rows")
                white = top(batch.images.dtype)
                if batch.images.shape[1:] != self.architecture.shape:
                    raise PrivacyError(f"images of {batch.images.shape[1:]}, the plan is for {self.architecture.shape}")
                step = at_once(self.architecture.shape, CHUNK)
                for start in range(0, len(batch), step):
                    part = slice(start, start + step)
                    labels = batch.labels[part]
                    if labels.min() < 0 or labels.max() >= len(seen):
                        raise PrivacyError(f"labels from {labels.min()} to {labels.max()}: 0 to {len(seen) - 1}")
                    seen += np.bincount(labels, minlength=len(seen))
                    pixels = torch.from_numpy(batch.images[part].reshape(len(labels), -1) / white)
                    yield pixels, torch.from_numpy(labels), labels, batch.valid[part]
                    advance(len(labels))
        if self.public is None and seen.sum() != self.total:
            raise PrivacyError(f"a pass held {seen.sum()} records, the public number is {self.total}")
        if self.public is not None and not np.array_equal(seen, self.public):
            raise PrivacyError(
                f"a pass held {seen.tolist()} records by class, the public counts are {self.public.tolist()}"
            )

    def _steps(self, vectors: torch.Tensor, valid: NDArray[np.bool_], query: Query) -> Steps:
        """The clipped integer vectors of valid records; zero for rejected ones, whatever centring made of them."""
        return np.where(valid[:, None], add.lattice_rows(vectors.numpy(), query.radius, self.plan.step), 0.0)

    def _coefficients(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The centred low block `(n, D)` and the other coefficients `(n, d - D)`."""
        condition = self.flow.condition(labels)
        centred, _ = self.flow.shift(self.flow.cosine(pixels, condition)[0], condition)
        return centred[:, : self.architecture.low_dims], centred[:, self.architecture.low_dims :]

    def _fit_means(self) -> None:
        """Sum pixels by class. The transform is orthogonal: noise on pixels is the same noise on coefficients."""
        query, size = self.plan.mean, len(self.counts)
        sums = np.zeros((size, self.architecture.dims), dtype=np.int64)
        members = np.zeros((size, 1), dtype=np.int64)
        for pixels, _, labels, valid in self._rows("class means"):
            sums += add.class_sums(self._steps(pixels, valid, query), labels, size, query.radius)
            members += add.class_sums(valid[:, None].astype(np.float64), labels, size, 1)
        if self.plan.counts is not None:
            counted = with_noise(members, self.plan.counts)[:, 0]
            self.counts = class_sizes(counted, self.plan.counts.sigma, self.total)
        noisy = torch.from_numpy(with_noise(sums, query) * self.plan.step)
        low = self.flow.cosine(noisy, self.flow.condition(torch.arange(size)))[0][:, : self.architecture.low_dims]
        step = self.plan.step
        means = class_means(low.numpy(), query.sigma * step, self.counts, query.radius * step)
        self.flow.shift.mean.copy_(torch.from_numpy(means))

    def _fit_rotation(self) -> NDArray[np.float64]:
        """Sum outer products of the centred low block; returns the noisy standard deviations `(k,)`."""
        query, dims = self.plan.covariance, self.architecture.low_dims
        sums = np.zeros((dims, dims), dtype=np.int64)
        for pixels, labels, _, valid in self._rows("covariance"):
            low, _ = self._coefficients(pixels, labels)
            sums += add.outer_sum(self._steps(low, valid, query), query.radius)
        unit = self.plan.step**2 / max(self.total, 1)
        noisy = with_symmetric_noise(sums, query).astype(np.float64) * unit
        # Most entries are off the diagonal, where the noise is smaller by √2.
        noise, radius = query.sigma * unit / math.sqrt(2), query.radius * self.plan.step
        axes, stds = principal_axes(noisy, self.architecture.content, noise, radius)
        self.flow.rotation.weight.copy_(torch.from_numpy(axes))
        return stds

    def _fit_whitening_and_scales(self, stds: NDArray[np.float64]) -> None:
        """Sum outer products by class in the whitened k dimensions, and the energies of what they leave."""
        second, third = self.plan.class_covariance, self.plan.residual
        size, k = len(self.counts), self.architecture.content
        basis = self.flow.rotation.weight[:k].T
        outer = np.zeros((size, k, k), dtype=np.int64)
        energies = np.zeros((size, self.architecture.bands), dtype=np.int64)
        for pixels, labels, classes, valid in self._rows("class covariances"):
            low, high = self._coefficients(pixels, labels)
            content = low @ basis
            whitened = self._steps(content / torch.from_numpy(stds), valid, second)
            outer += add.class_outer_sums(whitened, classes, size, second.radius)
            rest = self._steps(torch.cat([low - content @ basis.T, high], dim=1), valid, third)
            energies += add.class_energies(
                rest, classes, size, band_of=self.bands, bands=self.architecture.bands, bound=third.radius
            )
        square = self.plan.step**2
        unit = square / np.maximum(self.counts, 1)
        noisy = with_symmetric_noise(outer, second) * unit[:, None, None]
        factors: NDArray[np.float64] = stds[:, None] * class_factors(noisy, second.sigma * unit / math.sqrt(2))
        self.flow.whitening.lower.copy_(torch.from_numpy(np.tril(factors, -1)))
        self.flow.whitening.log_diagonal.copy_(torch.from_numpy(np.log(np.diagonal(factors, axis1=1, axis2=2))))
        noisy_energies = with_noise(energies, third).astype(np.float64) * square
        bands = class_means(noisy_energies, third.sigma * square, self.counts, third.bound * square)
        scales = residual_stds(bands, self.flow.rotation.weight.numpy(), k, self.bands)
        self.flow.scale.log_scale.copy_(torch.from_numpy(np.log(scales)))

    def _fit_mixture(self, stds: NDArray[np.float64], spread: Query) -> None:
        """Find centres by sums over the nearest records, iteration by iteration, then every component's covariance."""
        classes, k = len(self.counts), self.architecture.content
        components, step, layer = self.architecture.components, self.plan.step, self.flow.mixture
        factors = self.flow.whitening.factor().numpy()
        start = lloyd.starting_centres(classes, components, k) @ factors.transpose(0, 2, 1)
        records, centres = np.ones((classes, components)), start
        for iteration, query in enumerate(self.plan.mixture):
            near = lloyd.on_lattice(lloyd.reseeded(records, centres, start, iteration), query, step)
            sums = np.zeros((classes * components, k + 1), dtype=np.int64)
            for _, steps, blocks, valid in self._nearest(query.name, query, near):
                sums += add.class_sums(add.counted(steps, valid, query.count), blocks, len(sums), query.bound)
            answer = with_noise(sums.reshape(classes, components, k + 1), query)
            records, centres = lloyd.noisy_centres(answer, query, step)
        scales = components_of.weights_of(stds)
        near = lloyd.on_lattice(
            lloyd.reseeded(records, centres, start, len(self.plan.mixture)), self.plan.mixture[-1], step
        )
        middle = np.linalg.solve(factors, (near * step).transpose(0, 2, 1)).transpose(0, 2, 1)
        outer = np.zeros((classes * components, k + 1, k + 1), dtype=np.int64)
        for whitened, _, blocks, valid in self._nearest(spread.name, self.plan.mixture[-1], near):
            apart = (whitened - torch.from_numpy(middle.reshape(-1, k)[blocks])) * torch.from_numpy(scales)
            steps = add.counted(self._steps(apart, valid, spread), valid, spread.count)
            outer += add.class_outer_sums(steps, blocks, len(outer), math.isqrt(spread.bound) + 1)
        answer = with_symmetric_noise(outer.reshape(classes, components, k + 1, k + 1), spread)
        weight, centre, factor = components_of.mixture(answer, spread, step, centres=middle, scales=scales)
        layer.weight.copy_(torch.from_numpy(weight))
        layer.centre.copy_(torch.from_numpy(centre.transpose(2, 0, 1).copy()))
        layer.lower.copy_(torch.from_numpy(np.tril(factor, -1).transpose(2, 0, 1, 3).copy()))
        layer.log_diagonal.copy_(
            torch.from_numpy(np.log(np.diagonal(factor, axis1=2, axis2=3)).transpose(2, 0, 1).copy())
        )

    def _fit_tones(self, query: Query) -> None:
        """Sum histograms of values, and bend the model's own values to them."""
        channels, knots = self.architecture.shape[2], self.architecture.tones
        sums = np.zeros((channels, knots), dtype=np.int64)
        for pixels, _, _, valid in self._rows(query.name):
            sums += tones.histograms(pixels.numpy(), valid, channels, knots)
        answer = with_noise(sums, query)
        made = tones.simulated(self.flow, self.counts)
        own = tones.histograms(made, np.ones(len(made), dtype=np.bool_), channels, knots)
        rises = np.diff(tones.curve(answer, own), axis=1)
        self.flow.tones.log_rise.copy_(torch.from_numpy(np.log(rises)))

    def _nearest(
        self, label: str, query: Query, near: NDArray[np.float64]
    ) -> Iterator[tuple[torch.Tensor, Steps, NDArray[np.int64], NDArray[np.bool_]]]:
        """One pass: content whitened by class and in lattice steps, the nearest centre's block, which are valid."""
        basis = self.flow.rotation.weight[: self.architecture.content].T
        for pixels, labels, own, valid in self._rows(label):
            content = self._coefficients(pixels, labels)[0] @ basis
            steps = self._steps(content, valid, query)
            whitened, _ = self.flow.whitening(content, self.flow.condition(labels))
            yield whitened, steps, lloyd.nearest(steps, near, own), valid


def with_noise(sums: Sums, query: Query) -> Sums:
    """Integer sums, one coordinate an entry, with the query's discrete Gaussian noise."""
    return sums + discrete_gaussian(query.sigma, sums.shape)


def with_symmetric_noise(sums: Sums, query: Query) -> Sums:
    """Symmetric sums of outer products `(…, d, d)`, whose sensitivity is in the Frobenius norm, with symmetric noise.

    An off-diagonal entry occurs twice in the matrix, ‖A‖² = Σ A_ii² + 2·Σ_{i<j} A_ij², so the vector that has the
    Frobenius norm is (A_ii, √2·A_ij), with noise σ on each. On the integer A_ij itself that is noise σ/√2. The Rényi
    losses of the entries add up: α/2·(Σ δ_ii²/σ² + Σ_{i<j} δ_ij²/(σ²/2)) = α·‖A − A'‖²/2σ².
    """
    dims = sums.shape[-1]
    noise = np.zeros_like(sums)
    rows, columns = np.triu_indices(dims, 1)
    # Rounded up: 1/√2 as a float may be a hair short.
    upper = discrete_gaussian(query.sigma * math.sqrt(0.5) * (1 + 2.0**-40), (*sums.shape[:-2], len(rows)))
    noise[..., rows, columns] = upper
    noise[..., columns, rows] = upper
    diagonal = np.arange(dims)
    noise[..., diagonal, diagonal] = discrete_gaussian(query.sigma, sums.shape[:-1])
    return sums + noise
