"""The one codec for maps: a context profile in a few kilobytes, self-describing, equal profiles to equal bytes.

Masks are packed to bits. Effective receptive fields are kept as steps of their logarithm, relative to the strongest
pixel: 0 is weaker than ``decades`` powers of ten below it, 1 … ``levels`` are equal steps up to it; the sum over all
positions, which is drawn on a linear scale, as 255 steps of its square root. Maps of more than ``cells`` a side are
averaged over squares of pixels first. Maps are for pictures; whatever number is told of them
(centres, distances, shares) is taken from the full maps before and kept in full. An ``.npz``, in
which the steps lie as LZMA.
"""

import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ..files import write_bytes
from ..measure import ContextProfile

CELLS, LEVELS, DECADES = 64, 20, 4  # figures show four decades
ROOTS = 255


def encode_profile(profile, *, numbers=None, cells=CELLS, levels=LEVELS, decades=DECADES):
    """The bytes of a profile.

    Args:
        profile: :class:`ctxnet.measure.ContextProfile`.
        numbers: further arrays to keep in full, name → array-like, such as shares of the full maps.
        cells: largest side of a stored map.
        levels: steps of the logarithm, at most 255.
        decades: that they span.
    """
    arrays = {
        "layers": np.array(json.dumps(profile.layers)),
        "exact": np.array(profile.exact, dtype=bool),
        "center": profile.center.numpy(),
        "distance": profile.distance.numpy(),
        "size": np.array(profile.rf.shape[-2:]),
        "rf": np.packbits(profile.rf.numpy(), axis=-1),
        "steps": np.array([levels, decades]),
        **_squeezed("erf", _encode(profile.erf, cells, levels, decades)),
    }
    if profile.summed is not None:
        arrays |= _squeezed("summed", _encode_sum(profile.summed, cells))
    return _pack(arrays | {f"number_{name}": np.asarray(value) for name, value in (numbers or {}).items()})


def decode_profile(data):
    """(profile, numbers) from the bytes that :func:`encode_profile` made; raises whatever broken bytes cause."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        height, width = (int(s) for s in arrays["size"])
        levels, decades = (int(s) for s in arrays["steps"])
        rf = torch.from_numpy(np.unpackbits(arrays["rf"], axis=-1, count=width).astype(bool)).reshape(-1, height, width)
        profile = ContextProfile(
            layers=json.loads(str(arrays["layers"])),
            center=torch.from_numpy(arrays["center"]),
            rf=rf,
            erf=_decode(_spread(arrays, "erf"), rf, levels, decades),
            distance=torch.from_numpy(arrays["distance"]),
            exact=arrays["exact"].tolist(),
            summed=_decode_sum(_spread(arrays, "summed"), (height, width)) if "summed" in arrays else None,
        )
        return profile, {name.removeprefix("number_"): arrays[name] for name in arrays if name.startswith("number_")}


def save_profile(path, profile, **options):
    """Write a profile; options as for :func:`encode_profile`."""
    write_bytes(path, encode_profile(profile, **options))


def load_profile(path):
    """Read a profile.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: in one line with the path, if the file is damaged or none of ours.
    """
    return read_profile(path)[0]


def read_profile(path):
    """(profile, numbers) as they were written; errors as :func:`load_profile`."""
    data = Path(path).read_bytes()
    try:
        return decode_profile(data)
    except Exception as error:  # a broken archive fails in many ways; the reader needs the path
        raise ValueError(f"{path}: not a context profile, or damaged ({error})") from None


def _encode(maps, cells, levels, decades):
    """(…, H, W) maps to uint8 steps (…, h, w)."""
    relative = _relative(maps, cells)
    steps = (levels * (1 + relative.clamp(min=1e-300).log10() / decades)).ceil().clamp(0, levels)
    return steps.to(torch.uint8).numpy()


def _encode_sum(summed, cells):
    return (ROOTS * _relative(summed, cells).sqrt()).round().to(torch.uint8).numpy()


def _relative(maps, cells):
    """Maps of at most ``cells`` a side, float64, their maximum 1."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:]).double()
    factor = max(1, -(-max(flat.shape[-2:]) // cells))
    small = functional.avg_pool2d(flat, factor, ceil_mode=True) if factor > 1 else flat
    small = small.reshape(*maps.shape[:-2], *small.shape[-2:])
    return small / small.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _decode(steps, rf, levels, decades):
    """Maps of sum 1 of full size, zero outside of ``rf``."""
    height, width = rf.shape[-2:]
    steps = torch.from_numpy(steps).double()
    relative = torch.where(steps > 0, 10 ** (decades * ((steps - 0.5) / levels - 1)), 0.0)  # the middle of a step
    return _scaled(_enlarged(relative, height, width) * rf)


def _decode_sum(roots, size):
    return _scaled(_enlarged(torch.from_numpy(roots).double().square(), *size))


def _enlarged(maps, height, width):
    factor = max(1, -(-height // maps.shape[-2]))
    return maps.repeat_interleave(factor, -2).repeat_interleave(factor, -1)[..., :height, :width]


def _scaled(maps):
    total = maps.sum((-2, -1), keepdim=True)
    return (maps / torch.where(total > 0, total, 1)).float()


# Steps of neighbouring pixels are as good as independent: no context of former bytes or positions helps to predict them.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def _squeezed(name, steps):
    data = lzma.compress(steps.tobytes(), lzma.FORMAT_RAW, filters=_FILTERS)
    return {name: np.frombuffer(data, np.uint8), f"{name}_shape": np.array(steps.shape)}


def _spread(arrays, name):
    shape = tuple(int(size) for size in arrays[f"{name}_shape"])
    reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
    data = reader.decompress(arrays[name].tobytes(), max_length=int(np.prod(shape)) + 1)
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


def _pack(arrays):
    """A compressed ``.npz`` without a date, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()
