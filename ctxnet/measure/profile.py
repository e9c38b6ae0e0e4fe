"""A context profile: receptive field, effective receptive field and mean distance at every block of a model."""

import itertools
import json
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ctxnet.files import atomic_path
from ctxnet.measure.distance import mean_distance
from ctxnet.measure.effective import (
    asked_with,
    erf_maps,
    every_position,
    measurable,
    require_inside,
    require_more_than_rounding,
    residual_blocks,
)
from ctxnet.measure.receptive_field import Reach


@dataclass
class ContextProfile:
    """What :func:`context_profile` gives; L layers, images of H×W pixels. All tensors are on the CPU.

    Attributes:
        layers: names, in order.
        center: float64 (L, 2), (row, column) in pixels where each measured feature sits in the image.
        rf: bool (L, H, W).
        erf: float32 (L, H, W), each with sum 1, or zero where a feature has no gradient at all.
        distance: float64 (L,), mean distance in pixels; NaN where there is no gradient.
        exact: per layer, whether ``rf`` is exact or an upper bound.
        summed: float32 (H, W), the effective receptive fields of all positions of the last layer together, or None.
    """

    layers: list
    center: torch.Tensor
    rf: torch.Tensor
    erf: torch.Tensor
    distance: torch.Tensor
    exact: list
    summed: torch.Tensor | None = None

    def only(self, shown):
        """The profile of the layers with the indices ``shown`` alone, in their order, without ``summed``."""
        layers, exact = ([values[i] for i in shown] for values in (self.layers, self.exact))
        center, rf, erf, distance = (values[shown] for values in (self.center, self.rf, self.erf, self.distance))
        return ContextProfile(layers=layers, center=center, rf=rf, erf=erf, distance=distance, exact=exact)

    def save(self, path):
        """Write a compressed ``.npz``; equal profiles give equal bytes.

        Masks are packed to bits. Maps are stored as float16 square roots relative to their maximum, so that a pixel
        is kept to 0.1 % (relative) down to 10⁻⁸ of the maximum; distances and centres are kept in full.
        """
        arrays = {
            "layers": np.array(json.dumps(self.layers)),
            "exact": np.array(self.exact, dtype=bool),
            "center": self.center.numpy(),
            "distance": self.distance.numpy(),
            "rf": np.packbits(self.rf.numpy(), axis=-1),
            "size": np.array(self.rf.shape[-2:]),
            "erf": _encode(self.erf),
        }
        if self.summed is not None:
            arrays["summed"] = _encode(self.summed)
        with atomic_path(path) as partial, open(partial, "wb") as handle:
            np.savez_compressed(handle, **arrays)

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: in one line with the path, if the file is damaged or none of ours. (A zip keeps checksums of
                its contents; a record keeps one of the whole file.)
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                height, width = (int(s) for s in data["size"])
                rf = np.unpackbits(data["rf"], axis=-1, count=width).astype(bool)
                return cls(
                    layers=json.loads(str(data["layers"])),
                    center=torch.from_numpy(data["center"]),
                    rf=torch.from_numpy(rf.reshape(-1, height, width)),
                    erf=_decode(data["erf"]),
                    distance=torch.from_numpy(data["distance"]),
                    exact=data["exact"].tolist(),
                    summed=_decode(data["summed"]) if "summed" in data else None,
                )
        except FileNotFoundError:
            raise
        except Exception as error:  # a cut-off archive fails in many ways; the reader needs the path
            raise ValueError(f"{path}: not a context profile, or damaged ({error})") from None


def context_profile(
    model, images, layers=None, position=None, *,
    aggregate="abs_sum", batch_size=None, summed=False, inputs=None, of=None, output=None, call=None,
):  # fmt: skip
    """Measure the context at several layers: one forward pass per batch of images, one backward pass per layer.

    Args:
        model: any ``nn.Module`` that takes images (N, C, H, W); it is left as it was.
        images: (N, C, H, W), normalised as the model expects.
        layers: names as in ``model.named_modules()``; None: :func:`residual_blocks` of the model.
        position: (row, column) used in every layer; None: the middle (H//2, W//2) of each.
        aggregate: as in :func:`effective_receptive_field`.
        batch_size: images per pass; None: all at once.
        summed: also add up the maps of all positions of the last layer (one backward pass per position).
        inputs, of, output, call: as for :func:`effective_receptive_field`; the last two for all layers alike.

    Returns:
        :class:`ContextProfile`. A layer without any finite, positive gradient gets a warning, a map of zeros and
        the distance NaN.

    Raises:
        ValueError, NotImplementedError: as :func:`receptive_field` and :func:`effective_receptive_field`.
    """
    profile, _ = profile_and_reach(
        model, images, layers, position, aggregate=aggregate, batch_size=batch_size, summed=summed,
        inputs=inputs, of=of, output=output, call=call,
    )  # fmt: skip
    return profile


def profile_and_reach(
    model, images, layers=None, position=None, *,
    aggregate="abs_sum", batch_size=None, summed=False, inputs=None, of=None, output=None, call=None,
):  # fmt: skip
    """As :func:`context_profile`; also the :class:`Reach` that it asked, for whoever has more questions about one trace."""
    layers = residual_blocks(model) if layers is None else list(layers)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer to measure; name some with layers=[…]")
    asked, images = asked_with(images, inputs, of, output, call)
    with measurable(model, images) as (model, images):
        reach = Reach(model, layers, tuple(images.shape[1:]), asked=asked)
        positions = {layer: reach.grids[layer].position(position) for layer in layers}
        profile = _profile(reach, model, images, positions, aggregate, batch_size)
        if summed:
            every = {layers[-1]: every_position(reach.grids[layers[-1]])}
            whole = erf_maps(reach, model, images, every, aggregate, batch_size)[layers[-1]]
            profile.summed = _scaled(whole, layers[-1])
    return profile, reach


def profile_lattice(model, images, n=7, layers=None, *, aggregate="abs_sum", batch_size=None):
    """Profiles at n×n positions spread evenly over every layer's map: what a feature sees depends on where it sits.

    Place (i, j) is the feature (⌊(2i + 1)·H / 2n⌋, ⌊(2j + 1)·W / 2n⌋) of an H×W map; for odd n the middle one is that of
    :func:`context_profile`. A map smaller than n×n has some features at several places.

    Args:
        n: places per side, at least 1; the others as for :func:`context_profile`.

    Yields:
        ((i, j), :class:`ContextProfile`), row by row.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    layers = residual_blocks(model) if layers is None else list(layers)
    with measurable(model, images) as (model, images):
        reach = Reach(model, layers, tuple(images.shape[1:]))
        for i, j in itertools.product(range(n), repeat=2):
            positions = {
                layer: ((2 * i + 1) * grid.height // (2 * n), (2 * j + 1) * grid.width // (2 * n))
                for layer, grid in reach.grids.items()
            }
            yield (i, j), _profile(reach, model, images, positions, aggregate, batch_size)


def _profile(reach, model, images, positions, aggregate, batch_size):
    layers = reach.layers
    masks = reach.masks(positions)
    require_more_than_rounding(reach, model, images, positions)
    wanted = {layer: [positions[layer]] for layer in layers}
    maps = erf_maps(reach, model, images, wanted, aggregate, batch_size)
    centers = [reach.grids[layer].center(positions[layer]) for layer in layers]
    for layer in layers:
        require_inside(maps[layer], masks[layer][0], layer)
    erfs = [_scaled(maps[layer], layer) for layer in layers]
    distances = [mean_distance(e, c) if e.any() else math.nan for e, c in zip(erfs, centers, strict=True)]
    return ContextProfile(
        layers=layers,
        center=torch.tensor(centers, dtype=torch.float64),
        rf=torch.stack([masks[layer][0] for layer in layers]),
        erf=torch.stack(erfs),
        distance=torch.tensor(distances, dtype=torch.float64),
        exact=[masks[layer][1] for layer in layers],
    )


def _scaled(erf, layer):
    erf = erf.detach().cpu().double()
    total = erf.sum()
    if not (torch.isfinite(total) and total > 0):
        warnings.warn(f"the gradient of layer {layer!r} sums to {total.item()}; its map is left empty", stacklevel=3)
        return torch.zeros_like(erf, dtype=torch.float32)
    return (erf / total).float()


def _encode(erf):
    peak = erf.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (erf / peak).sqrt().half().numpy()


def _decode(array):
    erf = torch.from_numpy(array).double().square()
    total = erf.sum((-2, -1), keepdim=True)
    return (erf / torch.where(total > 0, total, 1)).float()
