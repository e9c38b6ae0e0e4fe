"""What the fields of records and provenance may be, of all kinds of records, since a name means the same in each.

A digest says that a record is as it was written, not that this program wrote it: a record may come from anybody. What it
says becomes paths, cells and sums, so each field is looked at here, once, before anybody uses it.
"""

import re

LARGEST = 2**53  # a whole number that a float still holds


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST and value == value


def _count(value):
    return type(value) is int and 0 <= value <= LARGEST


def _share(value):
    return _number(value) and 0 <= value <= 1


def _text(value):
    return isinstance(value, str) and len(value) <= 10_000


def _digest(value):
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _optional(test):
    return lambda value: value is None or test(value)


def _list(test):
    return lambda value: isinstance(value, list) and all(map(test, value))


def _group(test):
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


_ANY = _group(lambda value: True)
_SHAPES = {
    "a text": (_text, ("protocol", "variant", "config_hash", "name", "label", "family", "source", "weights", "small")),
    "a text or null": (_optional(_text), ("commit", "device", "data_manifest", "command", "record")),
    "true, false or null": (lambda value: value in (None, True, False) and not _number(value), ("dirty",)),
    "a seed": (lambda value: _count(value) or _text(value), ("seed",)),
    "a share in 0…1": (_share, ("top1", "top1_best", "mean_iou", "pixel_accuracy")),
    "a whole number": (_count, ("n", "epochs", "parameters", "multiply_adds", "size")),
    "a whole number or null": (_optional(_count), ("cores", "threads")),
    "a number from 0": (
        _optional(lambda value: _number(value) and value >= 0),
        ("wall_seconds", "wall_seconds_at_most", "training_seconds", "images_per_second"),
    ),
    "a whole number or SHA-256": (lambda value: _count(value) or _digest(value), ("images",)),
    "a group": (_ANY, ("config", "settings", "files")),
    "a group or null": (_optional(_ANY), ("trace",)),
    "a group of texts": (_optional(_group(_optional(_text))), ("versions",)),
    "a group of lists of numbers": (_group(_list(_optional(_number))), ("erf_share", "initial", "dose")),
    "a list of texts": (_list(_text), ("layers",)),
    "a list of whole numbers": (_list(_count), ("map", "shown")),
    "a list of numbers": (_list(_optional(_number)), ("rf_side", "distance", "class_distance")),
    "a list of shares": (_list(_optional(_share)), ("rf_share", "iou")),
    "a list of true and false": (_list(lambda value: isinstance(value, bool)), ("rf_exact",)),
}
_BY_KEY = {key: (what, test) for what, (test, keys) in _SHAPES.items() for key in keys}
_PER_LAYER = ("map", "rf_side", "rf_share", "rf_exact", "distance")


def misshapen(fields):
    """What in a record or its provenance cannot be right, in words; "" where nothing is. Unknown keys pass."""
    for key, value in fields.items():
        what, test = _BY_KEY.get(key, ("", lambda value: True))
        if not test(value):
            return f"{key}={repr(value)[:80]} must be {what}"
    lists = [fields[key] for key in _PER_LAYER if key in fields] + list(fields.get("erf_share", {}).values())
    if any(len(each) != len(fields.get("layers", ())) for each in lists):
        return f"{', '.join(_PER_LAYER)}: as many values as layers were expected"
    return ""
