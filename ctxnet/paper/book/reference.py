"""The reference of the site: signature and docstring of every name that a public package exports."""

import importlib
import inspect
import re

from ctxnet.paper.book.chapters import markdown

PACKAGES = ("ctxnet", "ctxnet.blocks", "ctxnet.models", "ctxnet.measure", "ctxnet.data", "ctxnet.training")
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Warns):\s*(.*)")
_ITEM = re.compile(r"([\w*`., =]+?): (.+)")


def address(package):
    """Of a package's page, from the top of the site."""
    return f"reference/{package}.html"


def packages():
    """What the pages show.

    Returns:
        list of dicts, one per package: ``name``, ``html`` (of its docstring) and ``entries``, each a dict with ``name``,
        ``signature`` (of a constant its value), ``html``, ``file`` and ``members`` (such entries, of a class).
    """
    modules = {package: importlib.import_module(package) for package in PACKAGES}
    known = {f"{package}.{name}": package for package, module in modules.items() for name in public_names(module)}

    def shown(text):
        return markdown(_linked(docstring(text or ""), known))

    def entries(module):
        return [_entry(name, getattr(module, name), shown) for name in public_names(module)]

    return [{"name": n, "html": shown(m.__doc__), "entries": entries(m)} for n, m in modules.items()]


def public_names(module):
    """Names that a package exports: its ``__all__``, or else the classes and functions of its own that it imports."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__, key=str.lower)
    found = {name: getattr(thing, "__module__", "") for name, thing in vars(module).items() if not name.startswith("_")}
    return sorted((name for name, home in found.items() if home.startswith(f"{module.__name__}.")), key=str.lower)


def _entry(name, thing, shown):
    if not callable(thing):
        return {"name": name, "signature": f"{name} = {thing!r}", "html": "", "file": "", "members": []}
    file = thing.__module__.replace(".", "/") + ".py"
    members = [_member(thing, key, part, shown) for key, part in vars(thing).items()] if inspect.isclass(thing) else []
    about = {"name": name, "signature": name + _signature(thing), "html": shown(inspect.getdoc(thing)), "file": file}
    return about | {"members": list(filter(None, members))}


def _member(owner, name, part, shown):
    """A public method or property that says what it does; None for anything else."""
    function = part.fget if isinstance(part, property) else getattr(part, "__func__", part)
    if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
        return None
    signature = "" if isinstance(part, property) else _signature(getattr(owner, name))
    return {"name": f"{owner.__name__}.{name}", "signature": name + signature, "html": shown(function.__doc__)}


def _signature(thing):
    try:
        text = str(inspect.signature(thing))
    except ValueError:  # written in C
        return "(…)"
    return re.sub(r"<([\w.]+ )?([\w.]+)[^<>]* at 0x[0-9a-f]+>", r"\2", text).replace("(self, ", "(").replace("(self)", "()")


def docstring(text):
    """A docstring as Markdown: sections become lists, ````code```` and roles become `code`."""
    lines, section = [], ""
    for line in inspect.cleandoc(text).splitlines():
        if heading := _SECTION.fullmatch(line):
            section = heading[1]
            lines += ["", f"**{section}**", "", heading[2]]
        elif section and not line[:1].strip():
            lines.append(_within(section, line[4:]))
        else:
            section = ""
            lines.append(line)
    text = re.sub(r"``(.+?)``", r"`\1`", "\n".join(lines), flags=re.S)
    pieces = re.split("(`[^`]*`)", re.sub(r":\w+:`[~!]?([^`]+)`", r"`\1`", text))
    pieces[::2] = [piece.replace("<", "&lt;") for piece in pieces[::2]]  # the others are code
    return "".join(pieces)


def _within(section, line):
    """A line of a section without its indentation: it begins an item, or goes on with one."""
    item = None if section == "Returns" or line[:1].isspace() else _ITEM.fullmatch(line)
    if item:
        return f"- `{item[1].replace('`', '')}`: {item[2]}"
    return line.strip() and f"  {line.strip()}"


def _linked(text, known):
    """Names of other entries lead there."""

    def link(match):
        package = known.get(match[1])
        return f"[{match[0]}]({package}.html#{match[1].rpartition('.')[2]})" if package else match[0]

    return re.sub(r"`(ctxnet\.[\w.]+)`", link, text)
