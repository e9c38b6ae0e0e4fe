"""Sliders: every position of theirs is a recorded state, a notebook and the site show the same, and a hand need not wait."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rewriting import rewrite

from ctxnet.atlas import states
from ctxnet.atlas.small import measure_context, measure_stack
from ctxnet.paper import sliders
from ctxnet.paper.results import BadRecord, MissingRecord

ROOT = Path(__file__).parents[1]
SETS = list(states.CONTROLS)


@pytest.mark.parametrize("name", SETS)
def test_every_choice_of_the_controls_is_one_network(name):
    chosen = [tuple(values.values()) for values in states.networks(name)]
    assert len(set(chosen)) == len(chosen) and {len(c) for c in chosen} == {len(states.CONTROLS[name])}
    for values in states.networks(name):
        assert all(value is None or value in states.CONTROLS[name][key] for key, value in values.items())
    with pytest.raises(ValueError, match="unknown set 'stak'; did you mean .*stack"):
        states.networks("stak")


def test_a_state_is_what_is_measured_on_the_spot():
    found = sliders.read_states("context", ROOT)
    wanted = {"context": "dilated 3×3 (§3.4)", "k": None, "d": 4}
    network, layer = found.settings["networks"].index(wanted), found.settings["layers"].index("layer1.1")
    profile = measure_context(wanted["context"], d=4, block="layer1.1")
    at = network, layer, 4
    assert found.numbers["rf_share"][at] == pytest.approx(float(profile.rf[0].double().mean()), abs=1e-5)
    assert found.numbers["distance"][at] == pytest.approx(float(profile.distance[0]), abs=0.02)
    assert (found.numbers["center_row"][at], found.numbers["center_column"][at]) == tuple(profile.center[0].tolist())

    tile = states._tile(profile.rf[0], profile.erf[0], 32)
    left = (layer * 9 + 4) * 32
    with Image.open(ROOT / "results/sliders/context/tiles.png") as image:
        recorded = np.asarray(image.convert("L"))[network * 32 : (network + 1) * 32, left : left + 32] // 17
    assert ((recorded > 0) == (tile > 0)).all() and np.abs(recorded.astype(int) - tile).max() <= 1
    seen = profile.rf[0].unfold(0, 2, 2).unfold(1, 2, 2).amax((2, 3)).numpy()
    assert ((tile > 0) == seen).all() and tile.max() == 15


def test_the_stack_opens_with_three_convolutions_in_the_middle():
    found = sliders.read_states("stack", ROOT)
    at = sliders.first_state("stack", found)
    profile = measure_stack(3)
    assert found.numbers["rf_share"][at] == pytest.approx(float(profile.rf[0].double().mean()), abs=1e-5) == 49 / 64**2
    assert found.numbers["distance"][at] == pytest.approx(float(profile.distance[0]), abs=0.02)


def test_states_are_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(states.CONTROLS, "stack", {"kernel": (3,), "dilation": (1, 2), "stride": (1,)})
    monkeypatch.setitem(states.LAYERS, "stack", ("relu1", "relu2"))
    folder = states.measure_states("stack", root=tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert states.measure_states("stack", root=tmp_path, progress=False) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    found = sliders.read_states("stack", tmp_path)
    assert found.numbers["rf_share"].shape == (2, 2, 9)
    monkeypatch.setitem(states.LAYERS, "stack", ("relu1", "relu3"))
    states.measure_states("stack", root=tmp_path, progress=False)
    assert "settings changed" in capsys.readouterr().out


def test_without_a_record_the_command_is_named_and_a_wrong_one_is_refused(tmp_path):
    with pytest.raises(MissingRecord, match="python -m ctxnet measure --sliders"):
        sliders.read_states("stack", tmp_path)
    data, facts = sliders.stack_explorer(tmp_path)._repr_mimebundle_()
    assert "`python -m ctxnet measure --sliders`" in data["text/markdown"] and facts == {}
    shutil.copytree(ROOT / "results/sliders", tmp_path / "results/sliders")
    text = (tmp_path / "results/sliders/stack/states.csv").read_bytes()
    rewrite(tmp_path / "results/sliders/stack", files={"states.csv": text[: text.rindex(b"\n", 0, -1) + 1]})
    with pytest.raises(BadRecord, match=r"stack/states.csv: needs 1944 states"):
        sliders.read_states("stack", tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_page_data_say_what_the_record_says(name):
    data, found = sliders.page_data(name, ROOT), sliders.read_states(name, ROOT)
    count = len(data["networks"]) * len(data["controls"][-1]["values"]) * data["places"] ** 2
    assert {len(values) for values in data["states"].values()} == {count}
    np.testing.assert_allclose(data["states"]["distance"], found.numbers["distance"].ravel(), atol=0.051)
    for number, chosen in enumerate(data["networks"]):
        assert len(chosen) == len(data["controls"]) - 1
        for index, key, about in zip(chosen, sliders.LABELS[name], data["controls"], strict=False):
            value = found.settings["networks"][number][key]
            assert (index < 0) == (value is None) and (index < 0 or about["values"][index] == value)
    assert [len(colours) for colours in data["colours"].values()] == [16, 16]


def test_a_notebook_gets_a_page_that_needs_nothing_else():
    data, facts = sliders.context_explorer(ROOT)._repr_mimebundle_()
    page = data["text/html"]
    assert facts == {"ctxnet": {"sliders": "context"}} and "<style>" in page and 'data-set="context"' in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    called = re.search(r'ctxnetSliders\.add\("context", (.*)\);\n', page)
    assert json.loads(called[1])["size"] == 64 and len(page) < 1_000_000


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


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "sliders.html"
    page = sliders.context_explorer(ROOT)._repr_mimebundle_()[0]["text/html"]
    path.write_text(f"<!doctype html><html lang='en'><meta charset='utf-8'><title>t</title><body>{page}</body></html>")
    return path.as_uri()


def test_a_key_moves_a_slider_and_the_picture_follows(browser, page):
    tab, complaints = browser.new_page(), []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(page)
    tab.wait_for_selector(".sliders canvas")
    numbers, canvas = tab.locator(".sliders-numbers"), "document.querySelector('.sliders canvas').toDataURL()"
    before, picture = numbers.inner_text(), tab.evaluate(canvas)
    assert before == "Sees 17 % of the image; mean distance 10.5 of 64 px."
    assert tab.locator("label:has-text('d, offset') input").is_disabled()
    block = tab.locator("label:has-text('block') input")
    block.focus()
    tab.keyboard.press("ArrowRight")
    assert block.get_attribute("aria-valuetext") == "layer1.1"
    assert numbers.inner_text() != before and tab.evaluate(canvas) != picture
    tab.locator("select").select_option(label="dilated 3×3 (§3.4)")
    assert tab.locator("label:has-text('d, offset') input").is_enabled()
    moves = """() => [0, 1, 2, 3, 4, 5, 6, 7].map((value) => {
        const slider = [...document.querySelectorAll('.sliders input')][2], started = performance.now();
        slider.value = value;
        slider.dispatchEvent(new Event('input'));
        return performance.now() - started;
    })"""
    assert sorted(tab.evaluate(moves))[4] < 300 and not complaints  # ms; it takes one or two
    tab.close()


def test_without_a_script_there_is_a_picture(browser, page):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page)
    assert tab.locator(".sliders img").is_visible() and tab.locator(".sliders canvas").count() == 0
    assert "this is the position they start from" in tab.locator(".sliders-note").inner_text().lower()
    context.close()
