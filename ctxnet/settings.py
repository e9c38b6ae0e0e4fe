"""Settings from a YAML file: every problem is one line that names the file, the key and the nearest valid value."""

import dataclasses
import re
from pathlib import Path

import yaml

from .naming import in_range, require_known

PROTOCOL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")  # becomes a folder, and a word of dvc's shell
_UNSAFE = set("<>\"'`$;&|*?")  # a data set's name goes into pages, cards and commands


# libyaml, where PyYAML has it, reads several times as fast, and every process of the pipeline reads the settings. Nodes are
# put together by PyYAML's own composer: libyaml's dies of a file that is nested deep.
_BASE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BASES = (_BASE,) if issubclass(_BASE, yaml.composer.Composer) else (yaml.composer.Composer, _BASE)


class _Loader(*_BASES):
    """YAML in which ``1e-05`` is a number, as in YAML 1.2, and no key stands twice in a group."""

    def __init__(self, text):
        _BASE.__init__(self, text)
        yaml.composer.Composer.__init__(self)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = key.value if isinstance(key, yaml.ScalarNode) else id(key)
            if key.tag != "tag:yaml.org,2002:merge" and name in seen:
                raise yaml.MarkedYAMLError(problem=f"key {name!r} is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node):  # is called again for a node that is merged into another
        if not getattr(node, "flat", False):
            super().flatten_mapping(node)
            node.flat = True


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path):
    """The groups of a settings file as a dict.

    Raises:
        FileNotFoundError: there is none.
        ValueError: not UTF-8, not YAML, a key twice, or no groups in it.
    """
    return parse_yaml(read_text(path), path)


def read_text(path):
    """A settings file as it stands; raises as :func:`read_yaml`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no settings here; run from the root of the repository")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise ValueError(f"{path}: line {line} is not UTF-8; save the file in that encoding") from None


def parse_yaml(text, path):
    """The groups of a settings file with this text; raises as :func:`read_yaml`."""
    try:
        values = _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{path}: not valid YAML: {line}{' '.join(str(error.problem).split())[:200]}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"{path}: not valid YAML: {reason or 'nested too deep'}") from None
    return group(values, str(path))


def group(value, where):
    """``value`` if it is a dict with names as keys."""
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{where}: holds {found}; a group with `key: value` lines was expected")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{where}: key {key!r} must be of type str; write it in quotes")
    return value


def names(value, where, known, kind):
    """``value`` if it is a list of distinct ones of ``known``."""
    if not isinstance(value, list):
        raise ValueError(f"{where}={value!r} must be a list of names")
    for number, name in enumerate(value):
        with_where(where, require_known, kind, name, known)
        if name in value[:number]:
            raise ValueError(f"{where}: {name!r} is there twice")
    return value


def extended(groups, name, where):
    """Group ``name`` with what its ``extends`` and theirs state, its own keys last.

    Raises:
        ValueError: an unknown parent, or a circle.
    """
    chain, key, stated = [], name, []
    while key is not None:
        if key in chain:
            raise ValueError(f"{where}.{name}.extends: goes in a circle ({' → '.join([*chain, key])})")
        chain.append(key)
        stated.append(group(groups[key], f"{where}.{key}"))
        parent = stated[-1].get("extends")
        if "extends" in stated[-1]:
            with_where(f"{where}.{key}.extends", require_known, "parent", parent, list(groups))
        key = parent
    merged = {k: v for values in reversed(stated) for k, v in values.items()}
    merged.pop("extends", None)
    return merged


def with_where(where, function, *arguments):
    """Call ``function``; a ValueError of it is given ``where``."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def typed(kind, values, *, where, ranges=(), choices=()):
    """Build the dataclass ``kind`` from the dict ``values``, refusing unknown, missing or wrongly typed keys.

    Args:
        ranges: key → interval of :func:`in_range`, for numbers and lists of them.
        choices: key → the values it may have.
    """
    ranges, choices = dict(ranges), dict(choices)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in group(values, where):
        with_where(where, require_known, "key", key, fields)
    missing = [name for name, f in fields.items() if name not in values and f.default is dataclasses.MISSING]
    if missing:
        raise ValueError(f"{where}: missing key {missing[0]!r}")
    checked = {}
    for key, value in values.items():
        here = f"{where}.{key}"
        checked[key] = value = _typed_value(value, fields[key].type, here)
        for number in value if isinstance(value, list) else [value]:
            if key in ranges:
                in_range(number, ranges[key], here)
            if key in choices:
                with_where(f"{here}={value!r}", require_known, key, number, choices[key])
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError(f"{here}={value!r}: a value is there twice")
    return kind(**checked)


def _typed_value(value, kind, where):
    if kind is float and type(value) is int:
        value = float(value)
    if kind == list[int]:
        right = isinstance(value, list) and all(type(v) is int for v in value)
    else:
        right = type(value) is kind
    if not right:
        name = "list of int" if kind == list[int] else kind.__name__
        raise ValueError(f"{where}={value!r} must be of type {name}")
    return value


def safe_dataset(name, where):
    """``name`` if it can stand in a path, a page and a command."""
    if not name or not name.isprintable() or _UNSAFE & set(name) or name.startswith("-"):
        raise ValueError(f"{where}={name!r}: no name for a data set; rename the folder to letters, digits, '_' and '-'")
    return name
