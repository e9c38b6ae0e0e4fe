"""Executed notebooks as blocks of a page: text, tables and figures as they are, code folded away.

The output itself says what a figure or table is: its metadata hold the facts that :func:`ctxnet.paper.figures.figure` and
:class:`ctxnet.paper.words.Table` put there.
"""

import ast
import base64
import html
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ctxnet.pipeline.notebook import read_executed

LONG = 38  # characters from which a cell of a table is prose and not a number or a name


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML, which browsers draw and screen readers read without a script."""

    def text(self, text):
        return re.sub(r"(?<=\d) (?=%)", "\u00a0", super().text(text))  # no line begins with a percent sign

    def inline_math(self, body):
        return convert(body.strip(), display="inline")

    def block_math(self, body):
        tag = re.search(r"\\tag\{([^}]*)\}", body)  # MathML has no element for it
        shown = convert(re.sub(r"\\tag\{[^}]*\}", "", body).strip(), display="block")
        number = f'<span class="tag">({html.escape(tag[1])})</span>' if tag else ""
        return f'<div class="formula scroll" tabindex="0">{shown}{number}</div>'


@dataclass
class Block:
    """A piece of a chapter.

    Attributes:
        kind: "text" (``html``), "code" (``html``, ``summary``), "figure" (``images``), "table" (``html``), "sliders" or
            "stream" (``html``).
        images: ``{"svg" or "png": bytes}``.
        facts: of a figure or table, as its output states them.
        cells: of code, those that it shows.
    """

    kind: str
    html: str = ""
    summary: str = ""
    images: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    cells: list = field(default_factory=list)


@dataclass
class Chapter:
    """An executed notebook: its file's stem, its first heading, its blocks."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)

    def shows(self, key, value):
        """Whether one of its figures or tables states this fact."""
        return any(block.facts.get(key) == value for block in self.blocks)


def read_chapter(path):
    """Read an executed notebook.

    Raises:
        ValueError: in one line with the path, for a file that is not as :func:`run_notebook` wrote it or has no heading.
    """
    path = Path(path)
    notebook = read_executed(path)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    heading = re.search(r"^# (.+)$", "\n".join(texts), re.M)
    if not heading:
        raise ValueError(f"{path}: no line '# Title' in it")
    chapter = Chapter(path.stem, heading[1].strip())
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            chapter.blocks.append(Block("text", html=markdown(cell.source)))
        elif cell.cell_type == "code":
            chapter.blocks += [Block("code", cells=[cell])] if cell.source.strip() else []
            chapter.blocks += filter(None, map(_output, cell.get("outputs", ())))
    chapter.blocks = _joined(chapter.blocks)
    return chapter


def _joined(blocks):
    """Code cells with nothing between them as one fold."""
    found = []
    for kind, run in itertools.groupby(blocks, key=lambda block: block.kind):
        if kind == "code":
            run = [_code([cell for block in run for cell in block.cells])]
        found += run
    return found


def markdown(text):
    """HTML of Markdown as notebooks have it; tables can be scrolled by themselves."""
    page = MarkdownWithMath(renderer=_Renderer(escape=False)).render(text)
    page = re.sub(r"<td( style=[^>]*)?>(.*?)</td>", _cell, page, flags=re.S)
    return re.sub(r"<table>(.*?</table>)", _scrolled, page, flags=re.S)


def _scrolled(found):
    """A table that can be scrolled by itself; one without a column of numbers is read like text.

    One that a phone would squeeze into a pillar of syllables, since its lines begin with prose or it is prose in three
    columns or more, is marked as "cards": there each line stands by itself, with the names of its columns.
    """
    inner = found[1]
    headers = [re.sub(r"<[^>]+>", "", text).strip() for text in re.findall(r"<th[^>]*>(.*?)</th>", inner, re.S)]
    words = "text-align:right" not in inner.replace(": ", ":")
    first = [re.sub(r"<[^>]+>", "", text) for text in re.findall(r"<tr>\s*<td[^>]*>(.*?)</td>", inner, re.S)]
    prose = 3 * sum(len(text) > LONG for text in first) > len(first) or (words and len(headers) > 2)
    kinds = ["words"] * words + ["cards"] * bool(prose and any(headers))
    if "cards" in kinds:
        inner = re.sub(r"<tr>(.*?)</tr>", lambda line: f"<tr>{_named(line[1], headers)}</tr>", inner, flags=re.S)
    marked = f' class="{" ".join(kinds)}"' if kinds else ""
    return f'<div class="scroll" tabindex="0"><table{marked}>{inner}</div>'


def _named(line, headers):
    """Cells of a line that know the heading of their column."""
    names = iter(headers)
    line = re.sub(r"<td", lambda cell: f'<td data-name="{html.escape(next(names, ""))}"', line)
    return re.sub(r"<td([^>]*>–</td>)", r"<td data-none\1", line)  # of which a card says nothing


def _cell(found):
    """A cell of a table, marked if it is prose and may be broken; "1 of 12" and the sign behind an interval stay whole."""
    inner = re.sub(r"(?<=\d) (of) (?=\d)", "\u00a0\\1\u00a0", found[2]).replace(" †", "\u00a0†").replace(" ‡", "\u00a0‡")
    longest = max(len(re.sub(r"<math.*?</math>", "formula", line)) for line in re.split("<br ?/?>|<small>", inner))
    prose = longest > LONG and "right" not in (found[1] or "")
    return f'<td class="long">{inner}</td>' if prose else f"<td{found[1] or ''}>{inner}</td>"


def _output(output):
    """The block of one output of a cell; None for what is of no use to a reader."""
    data, facts = output.get("data", {}), output.get("metadata", {}).get("ctxnet", {})
    images = {"png": base64.b64decode(data.get("image/png", "")), "svg": data.get("image/svg+xml", "").encode()}
    images = {kind: image for kind, image in images.items() if image}
    if images:
        return Block("figure", images=images, facts=facts)
    if "text/markdown" in data:
        return Block("table" if "table" in facts else "text", html=markdown("".join(data["text/markdown"])), facts=facts)
    if facts.get("sliders"):
        return Block("sliders", facts=facts)
    if output.get("output_type") == "stream" and output.get("name") == "stdout":
        return Block("stream", html=html.escape(output.text))
    return None


def _code(cells):
    """Cells under one fold; its summary says how much was checked. Parameters that were injected replace the defaults."""
    tagged = [set(cell.metadata.get("tags", ())) for cell in cells]
    given = any("injected-parameters" in tags for tags in tagged)
    shown = [cell for cell, tags in zip(cells, tagged, strict=True) if not (given and "parameters" in tags)]
    html_of, checks = Highlight2HTML(pygments_lexer="python"), sum(map(_checks, shown))
    summary = f"Code: {checks} check{'s' if checks > 1 else ''} passed" if checks else "Code"
    if any(tags & {"parameters", "injected-parameters"} for tags in tagged):
        summary = "Parameters" if len(shown) == 1 else "Set-up" + summary.removeprefix("Code")
    return Block("code", html="".join(html_of(cell.source.strip()) for cell in shown), summary=summary, cells=cells)


def _checks(cell):
    plain = re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.M)  # IPython's own lines are not Python
    try:
        return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(plain)))
    except SyntaxError:
        return 0
