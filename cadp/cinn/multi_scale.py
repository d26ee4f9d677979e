"""The convolutional network for pictures of any size up to 128×128×3, by a public rule of their shape.

Haar wavelets halve the resolution, couplings of 3×3 convolutions work at every scale and see the condition there, and
half of the channels of a scale are latents as they are (Dinh et al. 2017, Real NVP, section 3.6), until the shorter
side is at most 7. Dense couplings work on what is left, which is the content: the coarse picture.
"""

from cadp.cinn.architecture import Convolutional, Shape
from cadp.cinn.layers.blocks import Conditions, Couplings, Scale
from cadp.errors import CheckpointRefused

_SMALLEST = 7  # a side that is not halved again
_COARSE = 24  # channels that go on from a scale at most: the dense couplings stay small
_WIDTHS = (32, 48, 64)  # hidden channels, from fine to coarse; the last for all further scales
_BLOCKS = 2
_HEAD = Couplings(2, 256)
_LOGIT = 0.02


def multi_scale(shape: Shape, conditions: Conditions, content: int = 64) -> Convolutional:
    """Return the network for pictures of `shape`.

    Args:
        shape: `(h, w, c)`; both sides even.
        conditions: what every scale and the dense couplings are given.
        content: the latents that a mechanism may carry, the coarsest first; fewer where fewer are left.

    Raises:
        CheckpointRefused: a side is odd, so that nothing can be halved.

    >>> network = multi_scale((128, 128, 3), Conditions(4))
    >>> [scale.keep for scale in network.scales], network.content
    ([6, 12, 24, 24, 24], 64)
    """
    h, w, c = shape
    if h % 2 or w % 2:
        raise CheckpointRefused(f"pictures of {h}×{w}: a network of several scales halves both sides at least once")
    scales: list[Scale] = []
    while h % 2 == 0 and w % 2 == 0 and min(h, w) > (_SMALLEST if scales else 1):
        h, w = h // 2, w // 2
        keep = min(2 * c, _COARSE) if min(h, w) > 1 else 0
        width = _WIDTHS[min(len(scales), len(_WIDTHS) - 1)]
        scales.append(Scale(Couplings(_BLOCKS, width), keep=keep))
        c = keep or 4 * c
    left = h * w * c
    return Convolutional(
        shape, conditions, tuple(scales), _HEAD, content=min(content, left), logit=_LOGIT, class_latents=True
    )
