"""Executed notebooks as HTML blocks: text, tables and figures as they are, code folded away."""

import ast
import base64
import html
import re
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

SHOWN = re.compile(r"""\bshow\(\s*["']([\w.]+)["']""")  # how a chapter shows a figure that has a number
NETWORK = re.compile(r"""draw_network\(\s*["'](\w+)["']""")
TABLE = re.compile(r"<p><strong>Table ([\w.]+)\.</strong>")


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML, which browsers draw and screen readers read without a script."""

    def inline_math(self, body):
        return convert(body.strip(), display="inline")

    def block_math(self, body):
        return f'<div class="formula scroll" tabindex="0">{convert(_untagged(body), display="block")}{_tag(body)}</div>'


@dataclass
class Block:
    """A piece of a chapter.

    Attributes:
        kind: "text" (``html``), "code" (``html``, ``summary``), "figure" (``number`` of a saved one, or ``image`` as PNG
            bytes with ``alt``; ``rests_on`` as in :func:`ctxnet.paper.book.made.links`), "table" (``html``, ``number``),
            "widget" or "stream" (``html``).
    """

    kind: str
    html: str = ""
    number: str = ""
    summary: str = ""
    image: bytes = b""
    alt: str = ""
    rests_on: tuple = ()


@dataclass
class Chapter:
    """An executed notebook: its file's stem, its first heading, its blocks."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def read_chapter(path):
    """Read an executed notebook.

    Raises:
        ValueError: in one line with the path, for a file that is no notebook or has no heading.
    """
    path = Path(path)
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat's errors are of many kinds
        raise ValueError(f"{path}: not a notebook ({str(error).splitlines()[0]})") from None
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    heading = re.search(r"^# (.+)$", "\n".join(texts), re.M)
    if not heading:
        raise ValueError(f"{path}: no line '# Title' in it")
    chapter = Chapter(path.stem, heading[1].strip())
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            chapter.blocks.append(Block("text", html=markdown(cell.source)))
        elif cell.cell_type == "code":
            chapter.blocks += _code(cell)
    return chapter


def markdown(text):
    """HTML of Markdown as notebooks have it; tables can be scrolled by themselves."""
    page = MarkdownWithMath(renderer=_Renderer(escape=False)).render(text)
    return re.sub(r"(<table>.*?</table>)", r'<div class="scroll" tabindex="0">\1</div>', page, flags=re.S)


def _code(cell):
    source = cell.source.strip()
    blocks = [Block("code", html=Highlight2HTML(pygments_lexer="python")(source), summary=_summary(cell))] if source else []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "image/png" in data:
            number = SHOWN.search(source)
            image = base64.b64decode(data["image/png"])
            rests_on = ("atlas",) if NETWORK.search(source) else ("lattice",) if "draw_place(" in source else ()
            found = Block("figure", number=number[1] if number else "", image=image, alt=_alt(source), rests_on=rests_on)
            blocks.append(found)
        elif "text/markdown" in data:
            page = markdown("".join(data["text/markdown"]))
            table = TABLE.search(page)
            blocks.append(Block("table" if table else "text", html=page, number=table[1] if table else ""))
        elif output.get("output_type") == "stream" and output.get("name") == "stdout":
            blocks.append(Block("stream", html=html.escape(output.text)))
        elif "VBox(" in "".join(data.get("text/plain", "")):
            blocks.append(Block("widget"))
    return blocks


def _summary(cell):
    """What the folded code is for: a reader wants to know how much was checked."""
    tags = cell.metadata.get("tags", ())
    if "parameters" in tags or "injected-parameters" in tags:
        return "Parameters"
    plain = re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.M)  # IPython's own lines are no Python
    try:
        checks = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(plain)))
    except SyntaxError:
        checks = 0
    return f"Code: {checks} check{'s' if checks > 1 else ''} passed" if checks else "Code"


def _alt(source):
    network = NETWORK.search(source)
    if network:
        return (
            f"{network[1]}: on the left the mean distance over the blocks; on the right the receptive field and the "
            "effective receptive field of up to four blocks."
        )
    if "draw_stack(" in source or "draw_context(" in source:
        return (
            "Receptive field and effective receptive field of one feature, twice: in linear and in logarithmic scale; "
            "a circle has the mean distance as its radius."
        )
    if "draw_place(" in source:
        return (
            "On the left a photograph with the receptive field and the effective receptive field of one feature over it, "
            "and a circle with the mean distance as its radius; on the right the mean distance over the blocks."
        )
    return "Picture drawn by the code above."


def _untagged(body):
    r"""A formula without its ``\tag{…}``, which MathML has no element for."""
    return re.sub(r"\\tag\{[^}]*\}", "", body).strip()


def _tag(body):
    found = re.search(r"\\tag\{([^}]*)\}", body)
    return f'<span class="tag">({html.escape(found[1])})</span>' if found else ""
