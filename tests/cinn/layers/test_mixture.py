"""The transport of a mixture: what it says on paper, triangular, increasing far out, and row by row."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from cadp.cinn.architecture import Conditions
from cadp.cinn.layers import mixture
from cadp.cinn.layers.layer import Condition
from cadp.cinn.layers.mixture import MixtureTransport
from cadp.cinn.layers.normal import log_cdf, quantile_of_log

CLASSES, DIMS, COMPONENTS = 3, 5, 7


def mixed(dims: int = DIMS, components: int = COMPONENTS, spread: float = 1.0, seed: int = 0) -> MixtureTransport:
    """A layer with components as far apart as `spread` says."""
    draw = torch.Generator().manual_seed(seed)
    layer = MixtureTransport(CLASSES, dims, components)
    for tensor, size in (
        (layer.weight, 1.0),
        (layer.centre, spread),
        (layer.lower, 0.2),
        (layer.log_diagonal, 0.2),
    ):
        tensor.copy_(size * torch.randn(tensor.shape, generator=draw, dtype=torch.float64))
    return layer


def condition(n: int, classes: int = CLASSES) -> Condition:
    return Condition.of(Conditions(classes), torch.arange(n) % classes)


def normals(n: int, dims: int, seed: int = 1, size: float = 1.0) -> Tensor:
    return size * torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(layer: MixtureTransport, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights `(M,)`, centres `(M, k)` and Cholesky factors `(M, k, k)` of a class."""
    factors = layer.lower[:, label].transpose(0, 1).tril(-1) + torch.diag_embed(layer.log_diagonal[:, label].T.exp())
    return layer.weight[label].softmax(dim=0).numpy(), layer.centre[:, label].T.numpy(), factors.numpy()


def densities(layer: MixtureTransport, label: int, x: np.ndarray) -> np.ndarray:
    """What every component of a class says of the first coordinates `x (i,)`, with its weight, by a second library."""
    weights, centres, factors = parts(layer, label)
    i = len(x)
    return np.array(
        [
            weight * (multivariate_normal.pdf(x, centre[:i], (factor @ factor.T)[:i, :i]) if i else 1.0)
            for weight, centre, factor in zip(weights, centres, factors, strict=True)
        ]
    )


def test_it_is_the_conditional_distribution_function_of_every_coordinate() -> None:
    layer, n = mixed(), 30
    x, c = normals(n, DIMS, size=2.0), condition(n)
    z = layer(x, c)[0].numpy()
    for row in range(n):
        label, y = int(c.labels[row]), x[row].numpy()
        _, centres, factors = parts(layer, label)
        for i in range(DIMS):
            share = densities(layer, label, y[:i])
            # By the formula for conditional normals, from covariances: the layer never forms one.
            below = 0.0
            for part, centre, factor in zip(share, centres, factors, strict=True):
                covariance = factor @ factor.T
                gain = np.linalg.solve(covariance[:i, :i], covariance[:i, i])
                mean = centre[i] + gain @ (y[:i] - centre[:i])
                variance = covariance[i, i] - gain @ covariance[:i, i]
                below += part * norm.cdf((y[i] - mean) / math.sqrt(variance))
            assert norm.cdf(z[row, i]) == pytest.approx(below / share.sum(), rel=1e-8)


def test_its_log_det_makes_the_normal_density_that_of_the_mixture() -> None:
    layer, n = mixed(), 40
    x, c = normals(n, DIMS, size=3.0), condition(n)
    z, log_det = layer(x, c)
    found = norm.logpdf(z.numpy()).sum(axis=1) + log_det.numpy()
    for row in range(n):
        due = math.log(densities(layer, int(c.labels[row]), x[row].numpy()).sum())
        assert found[row] == pytest.approx(due, abs=1e-8)


def test_draws_of_the_mixture_become_standard_normal() -> None:
    layer, n = mixed(spread=2.0), 30_000
    rng = np.random.default_rng(2)
    labels = np.arange(n) % CLASSES
    x = np.empty((n, DIMS))
    for label in range(CLASSES):
        weights, centres, factors = parts(layer, label)
        own = np.flatnonzero(labels == label)
        chosen = rng.choice(COMPONENTS, len(own), p=weights)
        x[own] = centres[chosen] + np.einsum("nij,nj->ni", factors[chosen], rng.normal(size=(len(own), DIMS)))
    z = layer(torch.from_numpy(x), condition(n))[0].numpy()
    assert np.abs(z.mean(axis=0)).max() < 0.03
    assert np.abs(np.cov(z.T) - np.eye(DIMS)).max() < 0.04
    assert np.abs((z**3).mean(axis=0)).max() < 0.15
    assert np.abs((z**4).mean(axis=0) - 3).max() < 0.3


def test_one_component_is_a_whitening() -> None:
    layer = mixed(components=1)
    x, c = normals(20, DIMS, size=5.0), condition(20)
    z, log_det = layer(x, c)
    for row in range(20):
        _, centres, factors = parts(layer, int(c.labels[row]))
        due = np.linalg.solve(factors[0], x[row].numpy() - centres[0])
        assert z[row].numpy() == pytest.approx(due, abs=1e-11)
        assert log_det[row].item() == pytest.approx(-np.log(np.diagonal(factors[0])).sum(), abs=1e-9)


def test_a_fresh_layer_is_the_identity() -> None:
    layer, c = MixtureTransport(CLASSES, DIMS, COMPONENTS), condition(20)
    x = normals(20, DIMS + 2, size=3.0)
    z, log_det = layer(x, c)
    assert torch.allclose(z, x, rtol=0, atol=1e-13)
    assert log_det.abs().max() < 1e-12


def test_latent_i_depends_on_coordinates_up_to_i_and_the_rest_is_left_alone() -> None:
    layer, c = mixed(), condition(9)
    x = normals(9, DIMS + 3)
    z = layer(x, c)[0]
    assert torch.equal(z[:, DIMS:], x[:, DIMS:])
    for i in range(DIMS):
        moved = x.clone()
        moved[:, i:DIMS] += 1.5
        other = layer(moved, c)[0]
        assert torch.equal(other[:, :i], z[:, :i])
        assert not torch.isclose(other[:, i], z[:, i]).any()


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("coordinate", [0, DIMS - 1])
def test_every_coordinate_is_finite_increasing_and_inverted_from_end_to_end(spread: float, coordinate: int) -> None:
    layer = mixed(spread=spread)
    far = 10.0 ** torch.linspace(-8, 6, 200, dtype=torch.float64)
    line = torch.cat([-far.flip(0), torch.zeros(1, dtype=torch.float64), far])
    y = normals(1, DIMS).repeat(len(line), 1)
    y[:, coordinate] = line
    labels = torch.ones(len(line), dtype=torch.int64)
    z, log_det = layer._encode(y, labels)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_det).all()
    assert (z[:, coordinate].diff() >= 0).all()
    back = layer._decode(z, labels)
    assert torch.isfinite(back).all()
    # Farther out a component of width 1.2 may take over from one of 1.1 within less than float64 can tell apart.
    near = line.abs() <= 40
    again = layer._encode(back, labels)[0]
    assert float(((again - z).abs() / (1 + z.abs()))[near].max()) < (1e-11 if spread < 4 else 1e-6)
    assert float(((back[:, coordinate] - line).abs() / (1 + line.abs()))[near].max()) < (1e-9 if spread < 4 else 1e-3)


@pytest.mark.parametrize("apart", [1.0, 8.0, 30.0, 70.0])
def test_two_components_far_apart_have_an_inverse_that_every_latent_survives(apart: float) -> None:
    """Between them the function is flat: many x have one latent in float64, but no latent is lost."""
    layer = MixtureTransport(1, 1, 2)
    layer.centre.copy_(torch.tensor([[[-apart / 2, apart / 2]]]))
    layer.weight.copy_(torch.tensor([[0.0, -3.0]]))
    z = torch.linspace(-40, 40, 2001, dtype=torch.float64)[:, None]
    c = condition(len(z), 1)
    x = layer.inverse(z, c)
    assert (x[:, 0].diff() >= 0).all()
    assert float((layer(x, c)[0] - z).abs().max()) < 1e-11


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e38, 1e6, 300.0])
def test_no_row_depends_on_its_neighbours_to_the_bit(value: float) -> None:
    """Also where a neighbour needs logarithms, takes more steps, or never ends; across several chunks."""
    layer, n = mixed(spread=2.0), mixture.CHUNK + 40
    x, c = normals(n, DIMS), condition(n)
    z, log_det = layer(x, c)
    back = layer.inverse(x, c)
    for kept in (0, 17, mixture.CHUNK - 1, mixture.CHUNK, n - 1):
        hostile = torch.full_like(x, value)
        hostile[kept] = x[kept]
        found, changed = layer(hostile, c)
        assert torch.equal(found[kept], z[kept])
        assert torch.equal(changed[kept], log_det[kept])
        assert torch.equal(layer.inverse(hostile, c)[kept], back[kept])


def test_a_row_that_is_not_finite_stays_in_its_row_and_is_not() -> None:
    layer, c = mixed(), condition(3)
    x = normals(3, DIMS)
    x[1, 2] = math.nan
    z, log_det = layer(x, c)
    assert torch.isfinite(z[[0, 2]]).all()
    assert torch.isnan(z[1, 2:]).all()
    assert torch.isnan(log_det[1])
    assert torch.isnan(layer.inverse(x, c)[1]).any()


def test_no_rows_at_all() -> None:
    layer, c = mixed(), condition(0)
    z, log_det = layer(torch.zeros(0, DIMS + 1, dtype=torch.float64), c)
    assert z.shape == (0, DIMS + 1)
    assert log_det.shape == (0,)
    assert layer.inverse(z, c).shape == z.shape


def test_gradients_of_both_directions_are_those_of_finite_differences() -> None:
    layer, c = mixed(dims=3, components=4), condition(3)
    for point in (normals(3, 3), normals(3, 3, size=45.0)):
        x = point.clone().requires_grad_()
        torch.autograd.gradcheck(lambda v: layer(v, c)[0], x, atol=1e-6)
        torch.autograd.gradcheck(lambda v: layer(v, c)[1], x, atol=1e-4)
        torch.autograd.gradcheck(lambda v: layer.inverse(v, c), x, atol=1e-6)


def test_quantiles_of_logarithms() -> None:
    for z in (0.2, 0.0, -1.0, -8.0, -34.0, -35.0, -37.6, -40.0, -999.0, -1001.0, -1e6, -1e12, -1e38):
        x = torch.tensor([z], dtype=torch.float64)
        assert quantile_of_log(log_cdf(x)).item() == pytest.approx(z, rel=1e-14, abs=1e-15)
    tail = torch.tensor([-1e-3 - 10.0**i for i in range(6)], dtype=torch.float64)
    assert norm.logcdf(quantile_of_log(tail).numpy()) == pytest.approx(tail.numpy(), rel=1e-14)
