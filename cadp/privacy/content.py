"""Which latents carry a record: the first k columns; the others are drawn from the prior."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cadp.errors import PrivacyError
from cadp.privacy import noise

Floats = NDArray[np.float64]


def content_rows(z: Floats, valid: NDArray[np.bool_], content_dims: int) -> Floats:
    """Return `(n, k)` float64: the content of each record, all zeros where it is not valid or not finite.

    Raises:
        PrivacyError: shapes don't fit, or there are fewer latents than content dimensions.
    """
    if z.ndim != 2 or valid.shape != (len(z),) or z.shape[1] < content_dims:
        raise PrivacyError(f"latents {z.shape} and valid {valid.shape} do not fit {content_dims} content dimensions")
    content = z[:, :content_dims].astype(np.float64)
    keep = valid & np.isfinite(content).all(axis=1)
    return np.where(keep[:, None], content, 0.0)


def with_prior(content: Floats, shape: tuple[int, ...]) -> Floats:
    """Return `(n, d)`: the privatized content, then fresh N(0, 1) for the latents that carry nothing."""
    rest = noise.standard_normal((shape[0], shape[1] - content.shape[1]))
    return np.concatenate([content, rest], axis=1)


def spread(content_dims: int, radius: float) -> float:
    """Return E[min(‖z‖², radius²)] / k for z ~ N(0, I_k): the variance that is left per coordinate after an L2 clip."""
    k, square = content_dims, radius * radius
    return float(stats.chi2.cdf(square, k + 2) + stats.chi2.sf(square, k) * square / k)
