"""Put the site together: one folder of pages that needs nothing but itself."""

import re
from pathlib import Path

from ctxnet.files import built_folder, write_bytes, write_text
from ctxnet.report import claims, tables
from ctxnet.report.html import TITLE, reading_notes, saved_figures
from ctxnet.report.records import make_command
from ctxnet.site import chapters, made, search
from ctxnet.site.explorer import write_explorer
from ctxnet.site.pdf import NAME, find_browser, print_paper

HERO = "4.2"  # the figure on the first page
ATLAS = "A_atlas"
STATIC = Path(__file__).with_name("static")
SHARED_STYLE = Path(chapters.__file__).parents[1] / "report" / "report.css"
MARK = "site.json"  # lists the files of a folder that this module made, and may therefore replace


def build_site(protocol, out, root=".", *, executed=None, pdf=False):
    """Write the site of one protocol's results into ``out``, which is replaced.

    Args:
        protocol: a protocol with a report.
        out: folder of the site; one that exists must be empty or an earlier site.
        root: the repository.
        executed: folder of the executed chapters; None: ``results/<protocol>/notebook``.
        pdf: also print the paper, which takes a browser (see :mod:`ctxnet.site.pdf`).

    Returns:
        Path of ``index.html``.

    Raises:
        ValueError: unknown protocol, a folder that holds something else, or damaged records; in one line.
        FileNotFoundError: no executed chapter, or no figures yet, with the command that makes them; no browser for a PDF.
    """
    from ctxnet.training import load_protocol

    root, out = Path(root), Path(out)
    load_protocol(protocol, root / "params.yaml")
    executed = Path(executed) if executed else root / "results" / protocol / "notebook"
    found = [chapters.read_chapter(path) for path in sorted(executed.glob("*.ipynb"))]
    figures = require_figures(protocol, root)
    if not found:
        raise FileNotFoundError(f"{executed}: no executed chapters here; make them with: {make_command(protocol)}")
    browser = find_browser() if pdf else None
    with built_folder(out, MARK) as beside:
        _Site(protocol, root, beside, executed, found, figures).write(pdf)
        if pdf:
            print_paper(beside, browser)
    return out / "index.html"


def require_figures(protocol, root="."):
    """:func:`ctxnet.report.html.saved_figures`, which must not be empty.

    Raises:
        FileNotFoundError: there are none; with the command that makes them.
    """
    figures = saved_figures(protocol, root)
    if not any(figure["path"] for figure in figures.values()):
        folder = Path(root) / "results" / protocol / "figures"
        raise FileNotFoundError(f"{folder}: no figures here yet; make them with: {make_command(protocol)}")
    return figures


class _Site:
    """What all pages share while they are written."""

    def __init__(self, protocol, root, out, executed, found, figures):
        import jinja2

        self.protocol, self.root, self.out, self.executed = protocol, root, out, executed
        self.chapters, self.figures = found, figures
        self.commit, self.dirty = made.build_origin(root)
        self.origins = made.Origins(protocol, root, here=self.commit)
        self.index = []
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).with_name("pages")),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        self.environment.filters["ticks"] = _ticks
        self.environment.filters["first_sentence"] = lambda text: re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]

    def write(self, pdf):
        out = self.out
        for path in [*STATIC.iterdir(), SHARED_STYLE]:
            write_bytes(out / "static" / path.name, path.read_bytes())
        for figure in self.figures.values():
            for kind in (".svg", ".png") if figure["path"] else ():
                source = figure["path"].with_suffix(kind)
                write_bytes(out / "figures" / source.name, source.read_bytes())
        for path in sorted((self.root / "results" / self.protocol / "tables").glob("*.csv")):
            write_bytes(out / "tables" / path.name, path.read_bytes())
        for path in sorted(self.executed.glob("*.ipynb")):
            write_bytes(out / "notebooks" / path.name, path.read_bytes())
        cards = self._cards()
        pages = [self._chapter(number) for number in range(len(self.chapters))]
        self._page("index.html", "index.html.j2", TITLE, pdf=NAME if pdf else "", **self._front(pages, cards))
        self._page("made.html", "made.html.j2", "How it was made", **self._made())
        self._page(
            "paper.html", "paper.html.j2", TITLE, pages=pages, notes=reading_notes(self.protocol, self.root), searched=False
        )
        shown = write_explorer(out, self.root, self.environment, self._common("explorer.html", "Explorer"))
        text = "Pick a network and a block, move the position over a photograph: receptive field, effective receptive field."
        entry = {"page": "explorer.html", "title": "Explorer", "heading": "Explorer", "text": f"{text} {' '.join(shown)}"}
        self.index.append(entry)
        write_text(out / "static" / "index.js", search.script(self.index))

    def _common(self, address, title, up=""):
        return {
            "site": TITLE, "title": title, "address": address, "up": up, "protocol": self.protocol,
            "commit": made.short(self.commit), "dirty": self.dirty,
            "menu": [(f"{c.name}.html", c.title) for c in self.chapters],
        }  # fmt: skip

    def _page(self, address, template, title, *, searched=True, **values):
        page = self.environment.get_template(template).render(
            **self._common(address, title, "../" * address.count("/")), **values
        )
        write_text(self.out / address, page.rstrip() + "\n")
        if searched:
            main = page[page.index("<main") : page.index("</main>")]
            self.index += search.sections(address, title, main)

    def _chapter(self, number):
        chapter = self.chapters[number]
        blocks = [self._block(chapter, place, block) for place, block in enumerate(chapter.blocks)]
        contents = re.findall(r'<h2 id="([^"]+)">(.*?)<a class', "".join(b["html"] for b in blocks if b["kind"] == "text"))
        around = {
            "previous": self.chapters[number - 1] if number else None,
            "following": self.chapters[number + 1] if number + 1 < len(self.chapters) else None,
        }
        values = {"name": chapter.name, "title": chapter.title, "blocks": blocks, "contents": contents}
        self._page(f"{chapter.name}.html", "chapter.html.j2", chapter.title, chapter=values, **around)
        return values

    def _block(self, chapter, place, block):
        """A block as the templates take it."""
        shown = {"kind": block.kind, "html": block.html, "summary": block.summary, "number": block.number}
        notebook = f"notebooks/{chapter.name}.ipynb"
        figure = self.figures.get(block.number)
        if block.kind == "figure" and figure and figure["path"]:
            shown |= self._figure(figure, notebook)
        elif block.kind == "figure":
            address = f"figures/{chapter.name}-{place}.png"
            write_bytes(self.out / address, block.image)
            width, height = _png_size(block.image)
            shown |= {"source": address, "alt": block.alt, "caption": "", "networks": "", "files": [], "number": ""}
            shown |= {"width": width, "height": height}
            shown["made"] = self.origins.links([], notebook=notebook, rests_on=block.rests_on)
        elif block.kind == "table":
            known = block.number in tables.TABLES
            stem = f"tables/table_{block.number.replace('.', '_')}.csv"
            shown["made"] = self.origins.links(tables.TABLES[block.number][1] if known else [], notebook=notebook)
            shown["files"] = [("csv", stem)] if (self.out / stem).exists() else []
        return shown

    def _figure(self, figure, notebook):
        """A numbered figure with the lines under it, as the templates take it."""
        shown = {key: figure[key] for key in ("number", "caption", "alt", "width", "height", "networks")}
        path = Path("figures", figure["path"].name)
        shown |= {"source": path.as_posix(), "files": [(k, path.with_suffix(f".{k}").as_posix()) for k in ("svg", "png")]}
        return shown | {"made": self.origins.links(figure["variants"], notebook=notebook, rests_on=_rests_on(figure))}

    def _front(self, pages, cards):
        overview = chapters.markdown(tables.overview(self.protocol, self.root))
        for name in cards:
            overview = overview.replace(f"<code>{name}</code>", f'<a href="cards/{name}.html"><code>{name}</code></a>')
        intro = {page["name"]: _first_paragraph(page["blocks"]) for page in pages}
        hero = self.figures.get(HERO)
        return {
            "hero": self._figure(hero, "") if hero and hero["path"] else None,
            "overview": overview,
            "claims": chapters.markdown(claims.summary(self.protocol, self.root)),
            "chapters": [(page["name"], page["title"], intro[page["name"]]) for page in pages],
            "notes": reading_notes(self.protocol, self.root),
            "runs": self.origins.runs,
            "atlas": f"{ATLAS}.html" if any(page["name"] == ATLAS for page in pages) else "",
        }

    def _cards(self):
        folder, names = self.root / "results" / self.protocol / "cards", []
        for path in sorted(folder.glob("*.md")):
            text = path.read_text(encoding="utf-8").split("\n---\n", 1)[-1]  # without the front matter
            title = re.search(r"^# (.+)$", text, re.M)
            self._page(
                f"cards/{path.stem}.html", "card.html.j2", title[1] if title else path.stem, body=chapters.markdown(text),
                links=self.origins.links([path.stem], notebook="", up="../"),
            )  # fmt: skip
            names.append(path.stem)
        return names

    def _made(self):
        from ctxnet.training import load_params

        protocols = list(load_params(self.root / "params.yaml")["protocols"])
        return {
            "stages": made.stages(self.root),
            "sources": [entry | {"anchor": made.anchor(entry["commit"]), "short": made.short(entry["commit"])}
                        for entry in made.sources(protocols, self.root)],
            "data": made.data_sets(protocols, self.root),
        }  # fmt: skip


def _rests_on(figure):
    """What a numbered figure shows beside trained rows of the protocol."""
    number = figure["number"]
    if number.startswith("A."):
        return ("atlas",)
    if number == "2.9":
        return ("degradation",)
    drawn_from_records = number == "1.3" or number[0] in "45B"
    return ("measure",) if drawn_from_records and "at initialisation" in figure["networks"] else ()


def _ticks(text):
    import markupsafe

    return markupsafe.Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def _first_paragraph(blocks):
    for block in blocks:
        found = re.search(r"<p>(.*?)</p>", block["html"], re.S) if block["kind"] == "text" else None
        if found:
            return " ".join(re.sub(r"<[^>]+>", "", found[1]).split())
    return ""


def _png_size(image):
    """(width, height) from a PNG's header: bytes 16 to 24."""
    return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")
