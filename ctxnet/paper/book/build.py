"""Put the book together: one folder of pages that needs nothing but itself."""

import io
import re
from pathlib import Path

import jinja2
import markupsafe
from PIL import Image

from ctxnet import provenance
from ctxnet.files import built_folder, write_bytes, write_text
from ctxnet.paper import cards, claims, coherence, dense, pays, reach, results, sliders, words
from ctxnet.paper.book import chapters, made, networks, reference, search
from ctxnet.paper.book.explorer import write_explorer
from ctxnet.paper.book.pdf import NAME, find_browser, print_paper
from ctxnet.paper.figures import is_small_drawing

TITLE = "Adding context into convolutional neural networks"
HEROES = ("7.2", "4.2")  # the figure on the first page: the first of these that has its records
POINT = 1.7  # CSS pixels for a point of a figure: one of full text width fills the page's column
STATIC = Path(__file__).with_name("static")
TABLES = [(coherence.FILES, coherence.write_coherence), (reach.FILES, reach.write_reach), (pays.FILES, pays.write_pays),
          (dense.FILES, dense.write_dense)]  # of chapters on records of their own: files of tables, and who writes them
MARK = "site.json"  # lists the files of a folder that this module made, and may therefore replace


def build_site(protocol, out, root=".", *, executed=None, pdf=False):
    """Write the pages of one protocol's results into ``out``: built beside it, they replace it once they are complete.

    Args:
        protocol: a protocol with a report.
        out: folder of the site. If it exists, it must be empty or hold an earlier site, whose files are replaced.
        root: the repository.
        executed: folder of the executed chapters; None: ``results/<protocol>/notebook``.
        pdf: also print the paper, which takes a browser (see :mod:`ctxnet.paper.book.pdf`).

    Returns:
        Path of ``index.html``.

    Raises:
        ValueError: unknown protocol, a folder that holds something else, damaged records or chapters; in one line.
        FileNotFoundError: no executed chapter, with the command that makes them; no browser for a PDF.
    """
    root, out = Path(root), Path(out)
    results.settings_of(protocol, root)
    executed = Path(executed) if executed else root / "results" / protocol / "notebook"
    found = [chapters.read_chapter(path) for path in sorted(executed.glob("*.ipynb"))]
    if not found:
        command = "make repro" if protocol == "quick" else f"dvc repro report@{protocol}"
        raise FileNotFoundError(f"{executed}: no executed chapters here; make them with: {command}")
    browser = find_browser() if pdf else None
    with built_folder(out, MARK) as beside:
        _Book(protocol, root, beside, executed, found).write(pdf)
        if pdf:
            print_paper(beside, browser)
    return out / "index.html"


class _Book:
    """What all pages share while they are written."""

    def __init__(self, protocol, root, out, executed, found):
        self.protocol, self.root, self.out, self.executed, self.chapters = protocol, root, out, executed, found
        here = provenance.collect(root=root, device="cpu")
        self.origins = made.Origins(protocol, root, here=here["commit"])
        self.notes = words.reading_notes(protocol, root)
        self.index, self.heroes = [], {}
        pages = jinja2.FileSystemLoader(Path(__file__).with_name("pages"))
        self.environment = jinja2.Environment(loader=pages, autoescape=True, undefined=jinja2.StrictUndefined)
        self.environment.filters |= {"ticks": _ticks, "first_sentence": _first_sentence}
        self.environment.globals |= {
            "site": TITLE, "protocol": protocol, "commit": made.short(here["commit"]), "dirty": here["dirty"],
            "menu": [(f"{c.name}.html", c.title) for c in found], "reference": reference.address("ctxnet"),
        }  # fmt: skip

    def write(self, pdf):
        for path in STATIC.iterdir():
            write_bytes(self.out / "static" / path.name, path.read_bytes())
        words.write_tables(self.protocol, self.root, self.out)
        claims.write_claims(self.protocol, self.root, self.out)
        for files, write in TABLES:
            if any(c.shows("file", name) for c in self.chapters for name in files.values()):
                write(self.root, self.out)
        for path in sorted(self.executed.glob("*.ipynb")):
            write_bytes(self.out / "notebooks" / path.name, path.read_bytes())
        shown_cards = self._cards()
        pages = [self._chapter(number) for number in range(len(self.chapters))]
        self._page("index.html", TITLE, pdf=NAME if pdf else "", **self._front(pages, shown_cards))
        self._page("made.html", "How it was made", **made.everything(self.root))
        self._page("paper.html", TITLE, pages=pages, notes=self.notes, searched=False)
        self._reference()
        text = "Pick a network and a block, move the position over a photograph: receptive field, effective receptive field."
        self._tool("explorer.html", "Explorer", text, *write_explorer(self.out, self.root))
        text = "Every architecture of timm on one footing: sort, filter, compare two."
        self._tool(networks.PAGE, networks.TITLE, text, *networks.shown_networks(self.root))
        write_text(self.out / "static" / "index.js", search.script(self.index))

    def _tool(self, address, title, text, names, values):
        """A page that a script fills: the search knows it by a sentence and the names of what it shows."""
        self._page(address, title, searched=False, **values)
        self.index.append({"page": address, "title": title, "heading": title, "text": f"{text} {' '.join(names)}"})

    def _page(self, address, title, *, template="", searched=True, **values):
        template = self.environment.get_template(f"{template or address}.j2")
        page = template.render(address=address, title=title, up="../" * address.count("/"), **values)
        # where a cell is narrow, names break behind their underscores; the search below does not see it
        broken = re.sub(r"(<td[^>]*>(?:<a [^>]*>)?<code>)([^<]+)", lambda at: at[1] + at[2].replace("_", "_<wbr>"), page)
        write_text(self.out / address, broken.rstrip() + "\n")
        if searched:
            main = page[page.index("<main") : page.index("</main>")]
            self.index += search.sections(address, title, main)

    def _chapter(self, number):
        chapter = self.chapters[number]
        blocks = [self._block(chapter, place, block) for place, block in enumerate(chapter.blocks)]
        contents = re.findall(r'<h2 id="([^"]+)">(.*?)<a class', "".join(b["html"] for b in blocks if b["kind"] == "text"))
        values = {"name": chapter.name, "title": chapter.title, "blocks": blocks, "contents": contents}
        self._page(
            f"{chapter.name}.html", chapter.title, template="chapter.html", chapter=values,
            previous=self.chapters[number - 1] if number else None,
            following=self.chapters[number + 1] if number + 1 < len(self.chapters) else None,
        )  # fmt: skip
        return values

    def _block(self, chapter, place, block):
        """A block as the templates take it, with the lines under a figure or table."""
        facts = {"shows": (), "rests_on": (), "file": ""} | block.facts
        number = facts.get("number") or facts.get("table") or ""
        shown = {"kind": block.kind, "html": block.html, "summary": block.summary, "number": number, "made": [], "files": []}
        if block.kind == "figure" or facts["shows"] or facts["rests_on"]:
            notebook = f"notebooks/{chapter.name}.ipynb"
            shown["made"] = self.origins.links(facts["shows"], notebook=notebook, rests_on=facts["rests_on"])
        if block.kind == "table" and facts["file"] and (self.out / facts["file"]).exists():
            shown["files"] = [("csv", facts["file"])]
        if block.kind == "sliders":
            name = shown["name"] = facts["sliders"]
            shown["html"] = sliders.Sliders(name, self.root).markup()
            write_text(self.out / "sliders" / f"{name}.js", sliders.script(name, self.root))
        if block.kind == "figure":
            stem = f"figure_{number.replace('.', '_')}" if number else f"{chapter.name}-{place}"
            shown |= self._figure(block, number, stem)
            if number in HEROES and facts.get("drawn", True):
                self.heroes.setdefault(number, shown | {"chapter": chapter})
        return shown

    def _figure(self, block, number, stem):
        """Write the files of a figure; what the templates need of it."""
        for kind, image in block.images.items():
            write_bytes(self.out / "figures" / f"{stem}.{kind}", image)
        files = [(kind, f"figures/{stem}.{kind}") for kind in ("svg", "png") if kind in block.images]
        kind = "svg" if is_small_drawing(block.images.get("svg", b"")) or "png" not in block.images else "png"
        points = block.facts.get("points") or [0.6 * side for side in Image.open(io.BytesIO(block.images["png"])).size]
        width, height = (round(POINT * float(side)) for side in points)
        alt = block.facts.get("alt") or "Picture drawn by the code above."
        about = {key: block.facts.get(key, "") for key in ("caption", "networks")}
        shown = {"source": f"figures/{stem}.{kind}", "alt": alt, "width": width, "height": height}
        return about | shown | {"files": files if number else []}

    def _front(self, pages, names):
        overview = chapters.markdown(words.overview(self.protocol, self.root))
        for name in names:
            overview = overview.replace(f"<code>{name}</code>", f'<a href="cards/{name}.html"><code>{name}</code></a>')
        intro = {page["name"]: _first_paragraph(page["blocks"]) for page in pages}
        hero = next((number for number in HEROES if number in self.heroes), "")
        told = (reach.story, coherence.story, pays.story) if hero == HEROES[0] else ()
        return {
            "hero": self.heroes.get(hero),
            "stories": [chapters.markdown(story(self.root)) for story in told],
            "overview": overview,
            "claims": chapters.markdown(claims.summary(self.protocol, self.root)),
            "claimed": next((c for c in reversed(self.chapters) if c.shows("file", claims.FILE)), None),
            "chapters": [(page["name"], page["title"], intro[page["name"]]) for page in pages],
            "notes": self.notes,
            "runs": self.origins.runs,
            "atlas": next((f"{c.name}.html" for c in self.chapters if c.shows("number", "A.1")), ""),
        }

    def _reference(self):
        every = reference.packages()
        names = [package["name"] for package in every]
        for package in every:
            where, title = reference.address(package["name"]), f"Reference: {package['name']}"
            self._page(where, title, template="reference.html", package=package, packages=names)

    def _cards(self):
        every = cards.cards(self.protocol, self.root)
        for name, text in every.items():
            text = text.split("\n---\n", 1)[1]  # without the front matter
            self._page(
                f"cards/{name}.html", re.search(r"^# (.+)$", text, re.M)[1], template="card.html",
                body=chapters.markdown(text), links=self.origins.links([name], notebook="", up="../"),
            )  # fmt: skip
        return list(every)


def _ticks(text):
    return markupsafe.Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def _first_sentence(text):
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]


def _first_paragraph(blocks):
    pages = "".join(block["html"] for block in blocks if block["kind"] == "text")
    found = re.search(r"<p>(.*?)</p>", pages, re.S)
    return markupsafe.Markup(found[1]).striptags() if found else ""
