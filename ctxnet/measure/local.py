"""Local fields: what a feature sees when gates and statistics over the whole map are left out.

A squeeze-and-excite gate, the mean and variance of an instance or group normalisation, or a global response
normalisation lets every pixel reach every feature. That is true and says little: the *local* field is what remains
along all other ways. Attention and token mixing are ways of their own and stay.
"""

import math

from ctxnet.measure.between import Field, fields, places
from ctxnet.measure.receptive_field import Reach
from ctxnet.measure.rules import Mix

# Their statistics (of a softmax, its sum) are left out, the values themselves pass.
_NORMS = set(
    "native_group_norm group_norm native_layer_norm layer_norm rms_norm _fused_rms_norm native_batch_norm batch_norm "  # noqa: SIM905
    "_native_batch_norm_legit _native_batch_norm_legit_functional instance_norm cudnn_batch_norm _batch_norm_with_update "
    "_softmax _log_softmax softmax log_softmax".split()
)


def local_field(model, layer, input_size=(224, 224), position=None):
    """The receptive field of a feature without gates and statistics over the whole map.

    Left out is every way through a value that does not vary over the map although it was made of values that do, with
    no more than one such value per channel (a global pool, a sum, a maximum, attention pooling), and through the
    statistics of normalisations over the whole map. Statistics over channels, windows and rows stay.

    Args:
        model, layer, input_size, position: as for :func:`ctxnet.receptive_field`.

    Returns:
        :class:`Field` with a mask of the image's sizes.

    Raises:
        ValueError: unknown layer or position, or a layer that sees the image through such values alone, as a classifier.
        NotImplementedError: an operation without a rule.
    """
    reach = Reach(model, [layer], input_size)
    position = reach.grids[layer].position(position)
    ((mask, exact),) = fields(reach, layer, [position], skip=_leaving_out_statistics(reach))
    if not mask.any():
        raise ValueError(f"layer {layer!r} sees the image through gates or statistics over the whole map alone")
    return Field(mask[0].clone(), exact)


def _leaving_out_statistics(reach):
    def normalised(node, index, source, steps, place):
        """Of a normalisation over the whole map only the value itself, which sits where it sat."""
        if _name(node) not in _NORMS or tuple(_value(node, index).shape) != tuple(source.meta["val"].shape):
            return steps
        after = place
        for step in steps:
            after = step.forward(after)
        return [Mix()] if _varying(place) and not _varying(after) else steps

    where = places(reach, normalised)

    def skip(node, index, source, steps):
        kept = normalised(node, index, source, steps, where[source])
        if kept is not steps or not _varying(where[source]):
            return kept
        after = where[source]
        for step in steps:
            after = step.forward(after)
        channels = max(_beside(n, where[n]) for n in node.all_input_nodes if n in where)
        return steps if _varying(after) or math.prod(_value(node, index).shape) > channels else None

    return skip


def _beside(node, place):
    """Elements of a value at one place of its map."""
    varying = _varying(place)
    return math.prod(s for d, s in enumerate(node.meta["val"].shape) if d not in varying)


def _name(node):
    return node.target._schema.name.removeprefix("aten::")


def _value(node, index):
    return node.meta["val"] if index is None else node.meta["val"][index]


def _varying(place):
    """Dimensions of a value along which its place in the image changes."""
    at = place[:-1]
    return tuple(d for d in range(at.ndim - 1) if bool((at != at.narrow(d + 1, 0, 1)).any()))
