"""The explorer of the site: a page that works from a folder, and shows what the records say."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from rewriting import rewrite

from ctxnet.files import read_sealed
from ctxnet.paper.book import explorer
from ctxnet.paper.book.explorer import write_explorer
from ctxnet.records import write_record
from ctxnet.training import load_params, measure_lattice

SITE = Path(explorer.__file__).parent
BASE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<link rel="icon" href="data:,"><style>:root { --paper: #fff; --ink: #111; --soft: #555; --line: #ddd; --wash: #eee;
--accent: #06c; --ours: #06c; --thesis: #b50; --sans: sans-serif; --mono: monospace; }</style>
{% block head %}{% endblock %}</head><body>
<main>{% block main %}{% endblock %}</main>{% block scripts %}{% endblock %}</body></html>"""
PLACES, SIZE, CELLS = 3, 64, 16
SHORT = "convnext_tiny"  # stands for a network of fewer blocks, one of which has no gradient


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("explorer")
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    params["measure"] |= {"image_size": SIZE, "width": 4, "images": 2}
    params["lattice"] = {"places": PLACES, "cells": CELLS}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    for variant in ("resnet50_perm1", "resnet50"):
        measure_lattice(variant, root=root, progress=False)
    _shorten(root / "results" / "lattice", "resnet50_perm1", 12)
    return root


def _shorten(base, variant, count):
    """A record of the first ``count`` blocks of another, under other names; at every place the second has no gradient."""
    source, folder = base / variant, base / SHORT
    folder.mkdir()
    places = pd.read_csv(source / "places.csv").query(f"block < {count}")
    places.loc[places.block == 1, ["distance", "erf90_share"]] = None
    places.to_csv(folder / "places.csv", index=False)
    sprite = np.asarray(Image.open(source / "maps.png"))[: count * CELLS]
    Image.fromarray(sprite).save(folder / "maps.png")
    layers = [f"stages.{b // 4}.blocks.{b % 4}" for b in range(count)]
    record = read_sealed(source / "record.json") | {"variant": SHORT, "layers": layers}
    files = {name: (folder / name).read_bytes() for name in ("maps.png", "places.csv")}
    write_record(folder, {k: v for k, v in record.items() if k != "sha256"}, files, {})


def _build(root, out):
    loader = jinja2.ChoiceLoader([jinja2.DictLoader({"base.html.j2": BASE}), jinja2.FileSystemLoader(SITE / "pages")])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    shown, values = write_explorer(out, root)
    page = environment.get_template("explorer.html.j2").render(title="Explorer", **values)
    (out / "static").mkdir(exist_ok=True, parents=True)
    (out / "explorer.html").write_text(page)
    for path in (SITE / "static").glob("explorer.*"):
        shutil.copy(path, out / "static")
    return shown


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    _build(root, out)
    return out


# ---- what is written


def test_scripts_hold_the_records_in_the_order_of_the_rows(root, tmp_path):
    assert _build(root, tmp_path) == ["resnet50", "resnet50_perm1", SHORT]
    for variant in ("resnet50", "resnet50_perm1", SHORT):
        text = (tmp_path / "explorer" / f"{variant}.js").read_text()
        name, data = re.fullmatch(r'ctxnetExplorer\.add\("(\w+)", (.*)\);\n', text).groups()
        data, folder = json.loads(data), root / "results" / "lattice" / variant
        assert name == variant and data["places"] == PLACES and data["size"] == SIZE and data["cells"] == CELLS
        assert base64.b64decode(data["maps"].removeprefix("data:image/png;base64,")) == (folder / "maps.png").read_bytes()
        places = pd.read_csv(folder / "places.csv")
        columns = ("row", "column", "distance", "rf", "erf90", "top", "left", "side")
        written = [[np.nan if v is None else v for v in data[column]] for column in columns]
        np.testing.assert_array_equal(np.array(written, float).T, places.iloc[:, 2:].to_numpy(float))
        assert len(data["layers"]) * PLACES**2 == len(places)


def test_equal_records_give_equal_bytes(root, site, tmp_path):
    _build(root, tmp_path)
    files = sorted(path.relative_to(site) for path in site.rglob("*") if path.is_file())
    assert [str(f) for f in files if f.parent.name == "explorer"] == [
        f"explorer/{name}" for name in (f"{SHORT}.js", "photograph.jpg", "resnet50.js", "resnet50_perm1.js")
    ]
    assert all((site / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)
    with Image.open(io.BytesIO((site / "explorer" / "photograph.jpg").read_bytes())) as image:
        assert image.size == (448, 448) and image.mode == "RGB"


def test_the_page_states_the_settings_and_groups_the_rows(site):
    text = (site / "explorer.html").read_text()
    assert re.search(r"of width 4,\s+on 64 px", text) and "2 probe images" in text and "Grace Hopper" in text
    groups = re.findall(r'<optgroup label="([^"]+)">\s*<option value="(\w+)">([^<]+)<', text)
    assert groups == [
        ("Baseline", "resnet50", "ResNet-50"), ("Random sparse context (Table 4.1)", "resnet50_perm1", "1 permutation"),
        ("Other architectures (Table 4.6)", SHORT, "ConvNeXt-T"),
    ]  # fmt: skip


def test_without_a_record_the_page_says_how_to_make_one(tmp_path):
    assert _build(tmp_path, tmp_path / "out") == []
    text = (tmp_path / "out" / "explorer.html").read_text()
    assert "python -m ctxnet measure --everywhere --variant resnet50</code>" in text and text.count("<p>") == 1
    assert "<script" not in text and not (tmp_path / "out" / "explorer").exists()


def _damage_file(base):
    (base / "resnet50" / "places.csv").write_text("block\n")


def _drop_file(base):
    rewrite(base / "resnet50", files={"places.csv": None})


def _rename(base):
    (base / "resnet50").rename(base / "resnet51")


def _swap(base):
    shutil.rmtree(base / "resnet50")
    (base / "resnet50_perm1").rename(base / "resnet50")


def _other_setting(base):
    record = read_sealed(base / "resnet50_perm1" / "record.json")
    rewrite(base / "resnet50_perm1", {"settings": record["settings"] | {"seed": 7}})


def _lose_a_block(base):
    rewrite(base / "resnet50", {"layers": read_sealed(base / "resnet50" / "record.json")["layers"][:-1]})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_damage_file, r"resnet50/places.csv: damaged"),
        (_drop_file, r"resnet50/record.json: no places.csv; .*--variant resnet50"),
        (_rename, r"resnet51: unknown variant 'resnet51'; did you mean .*'resnet50'"),
        (_swap, r"resnet50/record.json: is the record of 'resnet50_perm1'"),
        (_other_setting, r"resnet50_perm1/record.json: seed=7, but 0 in .*resnet50;"),
        (_lose_a_block, r"resnet50/places.csv: needs 15 blocks × 9 places"),
    ],
)
def test_a_wrong_record_is_named(root, tmp_path, damage, says):
    base = tmp_path / "results" / "lattice"
    shutil.copytree(root / "results" / "lattice", base)
    damage(base)
    with pytest.raises(ValueError, match=says) as raised:
        _build(tmp_path, tmp_path / "out")
    assert "\n" not in str(raised.value)


# ---- what a reader sees


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not shutil.which("chromium"):
        pytest.skip("no chromium on the path")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


class Reader:
    """A page, and what it says."""

    def __init__(self, browser, site, address="", **context):
        self.page = browser.new_page(viewport={"width": 900, "height": 800}, **context)
        self.page.set_default_timeout(5000)
        self.complaints = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{(site / 'explorer.html').as_uri()}{address}")
        self.wait()

    def wait(self):
        self.page.wait_for_function(
            "row => !document.getElementById('explorer-message').hidden || location.hash.startsWith(`#row=${row}&`)",
            arg=self.page.input_value("#explorer-row"),
        )

    def choose(self, row):
        self.page.select_option("#explorer-row", row)
        self.wait()

    def set_block(self, block):
        self.page.locator("#explorer-block").evaluate(
            "(slider, b) => { slider.value = b; slider.dispatchEvent(new Event('input', { bubbles: true })); }", block
        )

    def click(self, x, y):
        """Click at pixel (x, y) of the input."""
        box = self.page.locator("#explorer-canvas").bounding_box()
        unit = box["width"] / SIZE
        self.page.locator("#explorer-canvas").click(position={"x": (x + 0.5) * unit, "y": (y + 0.5) * unit})

    @property
    def hash(self):
        return self.page.evaluate("location.hash")

    @property
    def numbers(self):
        return self.page.eval_on_selector_all("#explorer-numbers dd", "all => all.map((e) => e.textContent)")

    def picture(self):
        """uint8 (S, S, 4): what is drawn on the canvas."""
        address = self.page.evaluate("document.getElementById('explorer-canvas').toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
            return np.asarray(image.convert("RGBA"))


@pytest.fixture
def reader(browser, site):
    opened = []

    def open_page(address="", folder=site, **context):
        opened.append(Reader(browser, folder, address, **context))
        return opened[-1]

    yield open_page
    for one in opened:
        one.page.close()


def _line(root, variant, block, place):
    places = pd.read_csv(root / "results" / "lattice" / variant / "places.csv")
    return places.set_index(["block", "place"]).loc[(block, place)]


def _agree(numbers, layer, line, place):
    assert numbers[0] == layer
    assert numbers[1] == f"row {place // PLACES + 1}, column {place % PLACES + 1} of {PLACES}"
    shown = [float(number) for text in numbers[2:] for number in re.findall(r"[\d.]+", text)]
    wanted = [100 * line.rf_share, 100 * line.erf90_share, line.distance, 100 * line.distance / SIZE]
    assert shown == pytest.approx(wanted, abs=0.0501)
    assert re.fullmatch(r"[\d.]+\xa0px \([\d.]+\xa0%\)", numbers[4])


def test_every_control_changes_numbers_address_and_picture(reader, root):
    page = reader()
    layers = read_sealed(root / "results" / "lattice" / "resnet50" / "record.json")["layers"]
    assert page.hash == f"#row=resnet50&block={layers[8]}&place=2,2"  # the middle of everything
    _agree(page.numbers, layers[8], _line(root, "resnet50", 8, 4), 4)
    seen, pictures = {page.hash}, [page.picture()]

    def changed(row, block, place):
        _agree(page.numbers, layers[block], _line(root, row, block, place), place)
        assert page.hash == f"#row={row}&block={layers[block]}&place={place // PLACES + 1},{place % PLACES + 1}"
        assert page.hash not in seen
        seen.add(page.hash)
        pictures.append(page.picture())
        assert (pictures[-1] != pictures[-2]).any()
        assert layers[block] in page.page.get_attribute("#explorer-canvas", "aria-label")
        assert page.page.get_attribute("#explorer-block", "aria-valuetext") == f"{layers[block]}, {block + 1} of 16"

    page.set_block(2)
    changed("resnet50", 2, 4)
    page.choose("resnet50_perm1")
    changed("resnet50_perm1", 2, 4)
    line = _line(root, "resnet50_perm1", 2, 5)
    page.click(line.center_column + 3, line.center_row - 3)
    changed("resnet50_perm1", 2, 5)
    page.page.focus("#explorer-canvas")
    page.page.keyboard.press("ArrowUp")
    changed("resnet50_perm1", 2, 2)
    page.page.keyboard.press("ArrowRight")  # at the edge already
    assert page.hash in seen and page.hash.endswith("place=1,3")
    page.page.keyboard.press("ArrowLeft")
    changed("resnet50_perm1", 2, 1)
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowDown")
    changed("resnet50_perm1", 2, 7)
    page.page.focus("#explorer-block")
    page.page.keyboard.press("ArrowRight")
    changed("resnet50_perm1", 3, 7)
    page.page.click("#explorer-middle")
    changed("resnet50_perm1", 3, 4)
    box = page.page.locator("#explorer-chart").bounding_box()
    page.page.locator("#explorer-chart").click(position={"x": box["width"] - 12, "y": 50})
    changed("resnet50_perm1", 15, 4)
    assert not page.complaints


def test_a_drag_moves_the_position(reader, root):
    page = reader("#row=resnet50&block=layer1.0&place=1,1")
    box, mouse = page.page.locator("#explorer-canvas").bounding_box(), page.page.mouse
    mouse.move(box["x"] + 20, box["y"] + 20)
    mouse.down()
    mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 20, steps=4)
    assert page.hash.endswith("place=3,3")
    mouse.up()
    mouse.move(box["x"] + 20, box["y"] + 20)
    assert page.hash.endswith("place=3,3")


def test_the_picture_is_the_sprite(reader, root):
    """Opacity of the map grows with its step; the veil thins with the share of the receptive field."""
    page = reader("#row=resnet50_perm1&block=layer1.1&place=1,3")
    line, block, place = _line(root, "resnet50_perm1", 1, 2), 1, 2
    sprite = np.asarray(Image.open(root / "results" / "lattice" / "resnet50_perm1" / "maps.png")).astype(int)
    tile = sprite[block * CELLS : (block + 1) * CELLS, place * CELLS : (place + 1) * CELLS]
    unit = page.picture().shape[0] / SIZE
    middle = (np.arange(CELLS) + 0.5) * line.box_side / CELLS
    rows, columns = (((start + middle) * unit).astype(int) for start in (line.box_top, line.box_left))

    def cells():
        return page.picture()[np.ix_(rows, columns)].astype(int)

    both = cells()
    page.page.uncheck("#explorer-rf")
    heat = cells()
    page.page.uncheck("#explorer-erf")
    marks = cells()[..., 3] > 0  # cross, circle and dots lie above the maps
    page.page.check("#explorer-rf")
    veil = cells()
    free = ~marks
    assert free.mean() > 0.7 and not heat[free & (tile < 16)].any() and len(np.unique(tile[free] // 16)) > 3
    by_step = [heat[free & (tile // 16 == step)] for step in np.unique(tile[free] // 16)]
    opacity = [np.unique(pixels[:, 3]) for pixels in by_step]
    assert all(len(one) == 1 for one in opacity) and (np.diff(np.concatenate(opacity)) > 0).all()
    assert veil[free][:, 3] == pytest.approx(255 * 0.72 * (1 - tile[free] % 16 / 15), abs=1.5)
    assert (both[free] != veil[free]).any() and (both[free] != heat[free]).any()
    assert "with-erf" not in page.page.get_attribute("#explorer-picture", "class")


def test_a_link_restores_the_view(reader, root):
    address = "#row=resnet50_perm1&block=layer3.5&place=3,1"
    page = reader(address)
    assert page.hash == address and page.page.input_value("#explorer-row") == "resnet50_perm1"
    _agree(page.numbers, "layer3.5", _line(root, "resnet50_perm1", 12, 6), 6)
    page.page.evaluate("location.hash = '#row=resnet50&block=layer2.1&place=1,2'")
    page.page.wait_for_function("document.getElementById('explorer-now-layer').textContent === 'layer2.1'")
    _agree(page.numbers, "layer2.1", _line(root, "resnet50", 4, 1), 1)
    page = reader("#row=nonsense&block=layer9&place=9,x")
    page.page.wait_for_selector("#explorer-message:has-text('“nonsense”')")
    assert page.hash == "#row=resnet50&block=layer3.1&place=2,2" and not page.complaints
    page.choose("resnet50_perm1")
    page.page.wait_for_selector("#explorer-message", state="hidden")
    page.page.evaluate("location.hash = '#main'")  # a link within the page changes nothing
    assert page.page.input_value("#explorer-row") == "resnet50_perm1"


def test_the_last_choice_counts_even_if_its_script_comes_first(reader, root):
    page = reader()
    page.page.evaluate("""() => {
      const { add } = ctxnetExplorer, rows = document.getElementById("explorer-row");
      ctxnetExplorer.add = (row, record) => { add(row, record); ctxnetExplorer.came = row; };
      for (rows.value of ["resnet50_perm1", "resnet50"]) rows.dispatchEvent(new Event("change"));
    }""")
    page.page.wait_for_function("ctxnetExplorer.came === 'resnet50_perm1'")
    page.page.wait_for_timeout(200)  # and its picture has been decoded
    _agree(page.numbers, "layer3.1", _line(root, "resnet50", 8, 4), 4)


def test_a_network_of_other_depth(reader, root):
    page = reader("#row=resnet50&block=layer4.2&place=1,1")
    page.choose(SHORT)
    assert page.numbers[0] == "stages.2.blocks.3" and page.hash.endswith("place=1,1")  # as deep as before: the last
    assert page.page.get_attribute("#explorer-block", "max") == "11"
    page.set_block(1)
    assert page.numbers[3:] == ["no gradient"] * 2
    assert "no gradient" in page.page.get_attribute("#explorer-canvas", "aria-label")
    points = page.page.locator("#explorer-chart .dot")
    assert points.count() == 11 and page.page.locator("#explorer-chart .ring").count() == 0
    assert page.page.locator("#explorer-chart .reference").count() == 1 and page.page.is_visible("#explorer-reference")
    lines = page.page.get_attribute("#explorer-chart .here", "d")
    assert lines.count("M") == 2 and "NaN" not in lines  # a gap where there is no gradient
    assert not page.complaints


def test_a_missing_script_is_said(reader, site, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    (folder / "explorer" / "resnet50_perm1.js").unlink()
    page = reader(folder=folder)
    page.choose("resnet50_perm1")
    message = page.page.locator("#explorer-message")
    message.wait_for(state="visible")
    assert "explorer/resnet50_perm1.js" in message.text_content() and "1 permutation" in message.text_content()
    assert message.get_attribute("role") == "alert" and page.numbers == ["–"] * 5 and not page.picture().any()
    assert page.page.is_disabled("#explorer-block") and page.page.is_hidden(".explorer-chart")
    page.choose("resnet50")
    page.page.wait_for_function("document.getElementById('explorer-message').hidden")
    assert page.numbers[0] == "layer3.1" and page.page.is_enabled("#explorer-block")
    assert page.page.is_visible("#explorer-chart .here")
    (folder / "explorer" / "resnet50.js").unlink()  # without the reference, a row is shown all the same
    page = reader(f"#row={SHORT}&block=stages.0.blocks.0&place=1,1", folder=folder)
    assert page.numbers[0] == "stages.0.blocks.0" and page.page.is_hidden("#explorer-reference")


def test_without_the_reference_nothing_is_asked_for(reader, root, tmp_path):
    shutil.copytree(root / "results" / "lattice" / SHORT, tmp_path / "results" / "lattice" / SHORT)
    assert _build(tmp_path, tmp_path / "site") == [SHORT]
    page = reader(folder=tmp_path / "site")
    assert page.numbers[0] == "stages.1.blocks.2" and not page.complaints
    assert page.page.locator("#explorer-chart .reference").count() == 0 and page.page.is_hidden("#explorer-reference")


def test_names_labels_and_globals(reader, browser, tmp_path):
    page = reader()
    controls = page.page.locator("select, input, button, canvas, svg[role=img]")
    names = controls.evaluate_all(
        "all => all.map((e) => e.getAttribute('aria-label') || (e.labels?.[0] ?? e).textContent.trim())"
    )
    assert len(names) == 7 and all(names)
    assert page.page.get_attribute("#explorer-numbers", "aria-live") == "polite"
    assert page.page.get_attribute("#explorer-canvas", "role") == "img"
    (tmp_path / "blank.html").write_text("<!doctype html>")
    blank = browser.new_page()
    blank.goto((tmp_path / "blank.html").as_uri())
    usual = set(blank.evaluate("Object.getOwnPropertyNames(window)"))
    blank.close()
    assert set(page.page.evaluate("Object.getOwnPropertyNames(window)")) - usual == {"ctxnetExplorer"}


def test_it_is_sharp_and_fits_a_telephone(reader):
    page = reader(device_scale_factor=2)
    assert page.picture().shape[0] == round(2 * page.page.evaluate("document.getElementById('explorer-canvas').clientWidth"))
    page.page.set_viewport_size({"width": 390, "height": 800})
    page.page.wait_for_function("document.getElementById('explorer-canvas').clientWidth < 391")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    page.page.wait_for_function(
        "(c => c.width === Math.round(2 * c.clientWidth))(document.getElementById('explorer-canvas'))"
    )
    assert page.picture().any()
