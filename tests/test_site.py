"""The static site: chapters become pages, every link leads somewhere, and a real browser finds nothing to complain about."""

import base64
import importlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rewriting import rewrite
from test_report import fabricate

from ctxnet.paper import coherence, few, figures, reach, words
from ctxnet.paper.book import build_site, chapters, made, pdf, reference, search
from ctxnet.paper.figures.atlas import draw_network
from ctxnet.pipeline.notebook import write_executed

ROOT = Path(__file__).parents[1]
BROWSER = next(filter(None, map(shutil.which, pdf.BROWSERS)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
PIXEL = base64.b64encode((ROOT / "results/atlas/vgg16/context.png").read_bytes()).decode()


def shown(thing):
    """The output of a cell that ends with a figure or a table."""
    data, metadata = thing._repr_mimebundle_()
    return new_output("execute_result", execution_count=1, data=data, metadata=metadata)


def executed(folder):
    """Two small chapters as the runner leaves them: formula, figure with a number and without, table, sliders, checks."""
    folder.mkdir()
    result = {"output_type": "execute_result", "execution_count": 1}
    cells = [
        new_markdown_cell("# 4 Experiments\n\nHow far features look. And more."),
        new_code_cell('protocol = "small"', metadata={"tags": ["parameters"]}),
        new_markdown_cell(
            "## 4.1 What is measured\n\nA side $r_l$ of\n\n$$r_l = r_{l-1} + \\left\\lVert k \\right\\rVert_2 \\tag{7}$$"
        ),
        new_code_cell("a", outputs=[shown(figures.show("4.1", "small", ROOT))]),
        new_code_cell("b", outputs=[shown(draw_network("vgg16", ROOT))]),
        new_code_cell("plt.plot(x)", outputs=[new_output(**result, data={"image/png": PIXEL})]),
        new_code_cell("x = 1\nassert x\nassert x == 1"),
        new_code_cell(
            "%matplotlib inline\nexplorer()",
            outputs=[new_output(**result, data={"text/plain": "x"}, metadata={"ctxnet": {"sliders": "stack"}})],
        ),
        new_markdown_cell("## 4.3 Table\n\n### Quagga\n\nOnly here stands the word quagga."),
        new_code_cell("t", outputs=[shown(words.table("4.1", "small", ROOT))]),
        new_code_cell("print(1)", outputs=[new_output("stream", name="stdout", text="a < b\n")]),
    ]
    write_executed(folder / "04_experiments.ipynb", new_notebook(cells=cells))
    story = new_code_cell("r", outputs=[shown(figures.show("7.2", "small", ROOT))])
    cells = [new_markdown_cell("# 5 Conclusion\n\nNothing."), story]
    write_executed(folder / "05_conclusion.ipynb", new_notebook(cells=cells))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    index = build_site("small", folder / "out", ROOT, executed=executed(folder / "executed"))
    assert index == folder / "out" / "index.html"
    return folder / "out"


class Links(HTMLParser):
    """ids, addresses and pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.addresses, self.pictures = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if found.get("id") else []
        self.addresses += [found[key] for key in ("href", "src") if found.get(key)]
        self.pictures += [found] if tag == "img" else []


def test_every_link_leads_somewhere_without_a_network(site):
    pages = {path: Links(path.read_text()) for path in site.rglob("*.html")}
    assert {path.relative_to(site).as_posix() for path in pages} >= {
        "index.html", "04_experiments.html", "05_conclusion.html", "explorer.html", "made.html", "paper.html",
    }  # fmt: skip
    for path, page in pages.items():
        for address in page.addresses:
            if address.startswith("data:"):
                continue
            assert not re.match(r"[a-z]+://|//", address), f"{path.name}: {address} needs a network"
            name, _, anchor = address.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name}: {address}"
            if anchor and target.suffix == ".html":
                assert anchor in pages[target].ids, f"{path.name}: {address}"
        for picture in page.pictures:
            assert len(picture["alt"]) > 15 and picture["width"] and picture["height"], f"{path.name}: {picture}"


def test_a_chapter_shows_what_the_notebook_shows(site):
    page = (site / "04_experiments.html").read_text()
    assert page.count("<figure") == 3 and 'id="figure-4-1"' in page and "figures/figure_4_1.svg" in page
    caption = figures.FIGURES["4.1"].facts["caption"]
    assert caption[:60] in page and "vgg16: on the left the mean distance" in page
    assert "<summary>Code: 2 checks passed</summary>" in page and "<summary>Parameters</summary>" in page
    assert (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"' in page and '<span class="tag">(7)</span>' in page
    )
    assert "$" not in re.sub(r"<(details|script)\b.*?</\1>", "", page, flags=re.S)  # no formula is left as it was typed
    assert 'href="explorer.html">explorer</a>' in page and "a &lt; b" in page
    assert page.index('src="static/sliders.js"') < page.index('src="sliders/stack.js"') and 'data-set="stack"' in page
    assert (site / "sliders/stack.js").read_text().startswith('ctxnetSliders.add("stack", {')
    assert 'data-set="stack"' in (site / "paper.html").read_text() and "sliders.js" not in (site / "paper.html").read_text()
    assert 'id="table-4-1"' in page and "tables/table_4_1.csv" in page


def test_figures_and_tables_name_notebook_stage_commit_and_data(site):
    page = (site / "04_experiments.html").read_text()
    for part in (page[page.index('id="figure-4-1"') :], page[page.index('id="table-4-1"') :]):
        lines = part[part.index('class="made"') :][:1500]
        for address in (
            "notebooks/04_experiments.ipynb",
            "made.html#stage-report",
            "made.html#commit-",
            "made.html#data-imagenette-64",
        ):
            assert f'href="{address}' in lines
    figure = page[page.index('id="figure-4-1"') : page.index('id="table-4-1"')]
    assert 'href="made.html#stage-measure"' in figure  # it shows fresh networks beside the trained ones
    atlas = page[page.index("vgg16: on the left") :]
    lines = atlas[atlas.index('class="made"') :][:900]
    assert 'href="made.html#stage-atlas"' in lines and 'href="made.html#data-probe-images"' in lines
    origins = (site / "made.html").read_text()
    commits = {json.loads(p.read_text())["commit"] for p in ROOT.glob("results/small/runs/*/seed*/provenance.json")}
    assert commits and all(f'id="commit-{commit[:10]}"' in origins for commit in commits)
    manifest = json.loads((ROOT / "data/small.json").read_text())["manifest_hash"]
    assert manifest in origins


def test_what_belongs_together_stays_on_one_line():
    page = chapters.markdown("of 95 % or `5 %`\n\n| a | n |\n|:--|--:|\n| x | 1 of 12 |\n| y | 73.0–78.4 † |")
    assert all(text in page for text in ("95\u00a0%", "<code>5 %</code>", "1\u00a0of\u00a012", "78.4\u00a0†"))


def test_stages_are_those_of_the_pipeline():
    found = {stage["name"]: stage for stage in made.stages(ROOT)}
    assert {"data", "train", "measure", "lattice", "atlas", "report"} <= set(found)
    assert found["train"]["outs"] == ["results/<protocol>/runs/<variant>"]
    assert "${" not in str(found) and found["measure"]["about"].startswith("the full-size networks")


def test_a_table_names_each_protocol_that_it_rests_on_and_their_data_once():
    lines = made.Origins("small", ROOT, here=None).links((), notebook="", rests_on=few.table(ROOT).rests_on)
    commands = [text for what, text, _ in lines if what == "command"]
    assert commands == [f"python -m ctxnet campaign --protocol {name}" for name in ("few", "few_smoothed", "few_depth")]
    assert [text for what, text, _ in lines if what == "data"] == ["probe images"]


def test_runs_are_counted_by_commit():
    total = sum(entry["what"].get("runs under small", 0) for entry in made.sources(["small"], ROOT))
    assert total == len(list(ROOT.glob("results/small/runs/*/seed*/record.json")))


def test_search_index_holds_each_section_once():
    page = "<h1 id='a'>T</h1><p>one</p><h2 id=\"b\">Two<a>¶</a></h2><p>x &lt; y</p><details>hidden</details><math>z</math>"
    found = search.sections("p.html", "T", page)
    assert [entry["page"] for entry in found][-1] == "p.html#b" and found[-1]["heading"] == "Two"
    assert found[-1]["text"] == "x < y"


def test_the_reference_tells_of_every_public_name_and_the_search_finds_it(site):
    index = (site / "static/index.js").read_text()
    assert 'href="reference/ctxnet.html">Reference</a>' in (site / "index.html").read_text()
    for package in reference.PACKAGES:
        address, module = reference.address(package), importlib.import_module(package)
        page = (site / address).read_text()
        names = reference.public_names(module)
        assert names and all(f'"page":"{address}#{name}"' in index for name in names)
        for name in names:
            part = page[page.index(f'<h2 id="{name}">') :].split("<h2", 2)[1]
            assert f'<pre class="signature">{name}' in part
            assert "<p>" in part or not callable(getattr(module, name)), f"{package}.{name} has no docstring"
        text = re.sub(r"<(code|pre)\b.*?</\1>", "", page, flags=re.S)
        assert not re.search(r":\w+:`|``| at 0x|<math", text), package


def test_a_docstring_becomes_markdown():
    text = reference.docstring(
        """Does it, see :func:`ctxnet.models.create_model`; a < b, ``x < y``.

        Args:
            size: in
                px.

        Raises:
            ValueError: never.
        """
    )
    assert "see `ctxnet.models.create_model`; a &lt; b, `x < y`" in text
    assert "**Args**\n\n\n- `size`: in\n  px." in text and "- `ValueError`: never." in text


def test_every_formula_of_the_chapters_is_drawn(tmp_path):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        write_executed(tmp_path / path.name, nbformat.read(path, as_version=4))
        for block in chapters.read_chapter(tmp_path / path.name).blocks:
            if block.kind == "text":
                inside = re.sub(r"<[^>]+>", "", "".join(re.findall(r"<math.*?</math>", block.html, re.S)))
                assert "\\" not in inside, f"{path.name}: {inside}"


def test_only_a_site_is_replaced(site, tmp_path):
    def build(out, executed=site.parent / "executed", protocol="small"):
        return build_site(protocol, tmp_path / out, ROOT, executed=executed)

    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ValueError, match="letters: holds 'a.txt', which was not made here"):
        build("letters")
    assert (tmp_path / "letters" / "a.txt").exists()
    with pytest.raises(ValueError, match="did you mean 'small'"):
        build("new", protocol="smal")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no executed chapters.*dvc repro report@small"):
        build("new", tmp_path / "none")
    (tmp_path / "none" / "a.ipynb").write_text("{")
    with pytest.raises(ValueError, match="a.ipynb: damaged, or not executed"):
        build("new", tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "none"]  # nothing half built is left


def test_a_site_with_a_file_of_somebody_is_left_alone(site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "site")
    (copy / "figures" / "mine.txt").write_text("dear")
    mark = json.loads((copy / "site.json").read_text())
    assert "index.html" in mark["files"]
    with pytest.raises(ValueError, match=r"figures/mine.txt"):
        build_site("small", copy, ROOT, executed=site.parent / "executed")
    (copy / "figures" / "mine.txt").unlink()
    (copy / "index.html").write_text("old")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("dear")
    (copy / "link").symlink_to(outside)
    with pytest.raises(ValueError, match="link"):
        build_site("small", copy, ROOT, executed=site.parent / "executed")
    assert (copy / "index.html").read_text() == "old" and (outside / "keep").exists()
    linked = tmp_path / "linked"
    linked.symlink_to(copy)
    with pytest.raises(ValueError, match="is no folder"):
        build_site("small", linked, ROOT, executed=site.parent / "executed")


@pytest.mark.torture  # it builds the site once more
def test_a_site_of_ones_own_is_replaced_whole(site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "site")
    (copy / "index.html").write_text("old")
    build_site("small", copy, ROOT, executed=site.parent / "executed")
    assert (copy / "index.html").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_a_record_says_is_text_and_never_markup(tmp_path):
    root = fabricate(tmp_path, ["resnet50"])
    shutil.copy(ROOT / "dvc.yaml", root)
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    rewrite(root / "results/small/runs/resnet50/seed0", provenance={"device": evil, "commit": "--output=" + evil})
    (root / "executed").mkdir()
    said = words.Table(["said"], [[words.plain(f"a|b `c` {evil}")]])
    assert said.markdown().count("|") == 7  # no cell more than there is
    cells = [new_markdown_cell("# 4"), new_code_cell("t", outputs=[shown(said)])]
    cells += [new_code_cell("f", outputs=[shown(figures.show("4.1", "small", root))])]
    write_executed(root / "executed/04.ipynb", new_notebook(cells=cells))
    build_site("small", root / "site", root, executed=root / "executed")
    for page in (root / "site").rglob("*.html"):
        text = page.read_text()
        assert "<script>" not in text and "<img src=x" not in text, page.name
        assert not re.search(r'(?:id|href)="[^"]*[<>]', text), page.name
    assert "&lt;script&gt;" in (root / "site/made.html").read_text()


@pytest.mark.torture
def test_equal_results_give_equal_pages(site, tmp_path):
    build_site("small", tmp_path / "again", ROOT, executed=site.parent / "executed")
    names = sorted(path.relative_to(site) for path in site.rglob("*") if path.is_file())
    assert names == sorted(
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
    )
    assert [n for n in names if (site / n).read_bytes() != (tmp_path / "again" / n).read_bytes()] == []


def test_without_a_browser_the_pdf_is_refused_in_words(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Debian: chromium"):
        pdf.find_browser()


@needs_browser
def test_the_paper_is_printed(site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "site")
    data = pdf.print_paper(copy).read_bytes()
    assert data.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", data)) >= 3
    (copy / "paper.html").unlink()
    with pytest.raises(FileNotFoundError, match="paper.html: no page to print"):
        pdf.print_paper(copy)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        window = player.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield window
        window.close()


def visit(browser, address, **context):
    """A page and the list that collects what it complains about."""
    page, complaints = browser.new_page(**context), []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto(address)
    return page, complaints


@needs_browser
@pytest.mark.parametrize("width, scheme", [(1200, "light"), (390, "dark")])
def test_pages_load_in_silence_and_fit(browser, site, width, scheme):
    cards = sorted(site.glob("cards/*.html"))[:1]
    for path in [*sorted(site.glob("*.html")), *sorted(site.glob("reference/*.html")), *cards]:
        page, complaints = visit(browser, path.as_uri(), viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.wait_for_timeout(100)  # what scripts complain of after the page has loaded
        assert complaints == [], path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path.name} is wider than the window"
        broken = "[...document.images].filter(i => i.loading != 'lazy' && !i.naturalWidth).map(i => i.src)"
        assert page.evaluate(broken) == [], path.name
        assert page.evaluate("document.querySelectorAll('h1').length") >= 1
        page.close()


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const luminance = (colour) => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(part);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'white';
  };
  const found = [];
  for (const node of document.querySelectorAll('main *, .bar *, footer *')) {
    if (![...node.childNodes].some((child) => child.nodeType == 3 && child.data.trim())) continue;
    const style = getComputedStyle(node);
    if (style.visibility == 'hidden' || style.opacity < 0.5 || node.closest('[hidden], canvas, svg')) continue;
    const [a, b] = [luminance(style.color), luminance(ground(node))].sort((x, y) => y - x);
    const about = node.tagName + ' ' + node.className + ': ' + node.textContent.trim().slice(0, 40);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(about);
  }
  return found;
}"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(browser, site, scheme):
    for name in ("index", "04_experiments", "made", "explorer", "reference/ctxnet.measure"):
        page, _ = visit(browser, (site / f"{name}.html").as_uri(), color_scheme=scheme)
        assert page.evaluate(CONTRAST) == [], name
        page.close()


@needs_browser
def test_the_theme_is_chosen_and_kept(browser, site):
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    page.goto((site / "index.html").as_uri())

    def ground():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert ground() == "rgb(255, 255, 255)"
    page.click(".theme")
    page.click(".theme")
    assert ground() == "rgb(20, 23, 27)" and page.get_attribute(".theme", "aria-label") == "Theme: dark"
    page.goto((site / "made.html").as_uri())
    assert ground() == "rgb(20, 23, 27)"
    context.close()


@needs_browser
def test_search_finds_a_word_and_leads_to_its_section(browser, site):
    page, complaints = visit(browser, (site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("quagga")
    page.wait_for_selector(".hits a")
    assert page.locator(".hits a").count() == 1 and page.locator(".hits mark").first.inner_text() == "quagga"
    page.keyboard.press("Enter")
    page.wait_for_url("**/04_experiments.html#Quagga")
    page.fill(".search input", "no such word anywhere")
    page.wait_for_selector("text=Nothing found.")
    assert complaints == []
    cards = sorted(site.glob("cards/*.html"))
    if cards:  # from a folder below the top, too
        page.goto(cards[0].as_uri())
        page.fill(".search input", "quagga")
        page.wait_for_selector(".hits a")
        page.click(".hits a")
        page.wait_for_url("**/04_experiments.html#Quagga")
    page.close()


def test_the_first_page_tells_what_the_readme_tells_where_its_records_are(site, tmp_path):
    page = (site / "index.html").read_text()
    assert "figures/figure_7_2." in page and page.index("Which kind of context helps") < page.index('id="found"')
    for line in re.findall(r"^- (.*?)[:.] ", reach.story(ROOT) + "\n" + coherence.story(ROOT), re.M):
        assert line in page, line
    shutil.copy(ROOT / "params.yaml", tmp_path)
    without = figures.show("7.2", "small", tmp_path)  # a folder without records, so the figure names the command instead
    assert not without.facts["drawn"] and figures.show("7.2", "small", ROOT).facts["drawn"]
