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
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ..files import write_bytes
from ..measure import ContextProfile

CELLS, LEVELS, DECADES = 64, 14, 4  # figures show four decades
ROOTS = 255


def encode_profile(profile, *, numbers=None, cells=CELLS, levels=LEVELS, decades=DECADES):
    """The bytes of a profile.

    Args:
        profile: :class:`ctxnet.measure.ContextProfile`.
        numbers: further lists of floats to keep in full, by name, such as shares of the full maps.
        cells: largest side of a stored map.
        levels: steps of the logarithm, at most 255.
        decades: that they span.
    """
    about = {
        "layers": profile.layers,
        "exact": [bool(exact) for exact in profile.exact],
        "center": profile.center.tolist(),
        "distance": [None if math.isnan(d) else d for d in profile.distance.tolist()],
        "size": list(profile.rf.shape[-2:]),
        "levels": levels,
        "decades": decades,
        "numbers": {k: [None if math.isnan(v) else v for v in values] for k, values in (numbers or {}).items()},
    }
    arrays = {
        "about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8),
        "rf": np.packbits(profile.rf.numpy(), axis=-1),
        **_squeezed("erf", _encode(profile.erf, cells, levels, decades)),
    }
    if profile.summed is not None:
        arrays |= _squeezed("summed", _encode_sum(profile.summed, cells))
    return _pack(arrays)


def decode_profile(data):
    """(profile, numbers) from the bytes that :func:`encode_profile` made; raises whatever broken bytes cause."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        height, width = about["size"]
        rf = torch.from_numpy(np.unpackbits(arrays["rf"], axis=-1, count=width).astype(bool)).reshape(-1, height, width)
        profile = ContextProfile(
            layers=about["layers"],
            center=torch.tensor(about["center"], dtype=torch.float64),
            rf=rf,
            erf=_decode(_spread(arrays, "erf"), rf, about["levels"], about["decades"]),
            distance=torch.tensor(_floats(about["distance"]), dtype=torch.float64),
            exact=about["exact"],
            summed=_decode_sum(_spread(arrays, "summed"), (height, width)) if "summed" in arrays else None,
        )
        return profile, {name: _floats(values) for name, values in about["numbers"].items()}


def _floats(values):
    return [math.nan if value is None else value for value in values]


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
    """Height and width of the maps go before their steps."""
    # The preset's dictionary of 64 MB takes longer to clear than maps to compress; one that holds them gives equal bytes.
    filters = [_FILTERS[0] | {"dict_size": max(1 << 20, steps.nbytes)}]
    data = lzma.compress(steps.tobytes(), lzma.FORMAT_RAW, filters=filters)
    return {name: np.frombuffer(np.array(steps.shape[-2:], "<u2").tobytes() + data, np.uint8)}


def _spread(arrays, name):
    data = arrays[name].tobytes()
    height, width = np.frombuffer(data[:4], "<u2").astype(int)
    count = 1 if name == "summed" else len(arrays["rf"])
    reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
    steps = np.frombuffer(reader.decompress(data[4:], max_length=count * height * width + 1), np.uint8)
    return steps.reshape(*([count] if name != "summed" else []), height, width).copy()


def _pack(arrays):
    """A compressed ``.npz`` without a date, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return buffer.getvalue()
