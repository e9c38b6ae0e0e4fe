"""What lies beside the package for others to read: templates of `dvc plots`, and the set-up for Binder and Colab."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from ctxnet.files import write_csv

ROOT = Path(__file__).parents[1]
TEMPLATES = {path.stem: path for path in sorted((ROOT / ".dvc" / "plots").glob("*.json"))}
ENVIRONMENT = {**os.environ, "DVC_NO_ANALYTICS": "1"}
ROWS = ["resnet50", "resnet50_perm1", "convnext_tiny"]


def spoken(template):
    return template.read_text(encoding="utf-8")


# Templates of `dvc plots`


def test_there_is_a_template_for_each_kind_of_plot():
    assert set(TEMPLATES) == {"curves", "distance"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_vega_lite_with_the_anchors_that_dvc_fills(name):
    spec = json.loads(spoken(TEMPLATES[name]))
    assert "vega-lite/v5" in spec["$schema"] and spec["data"] == {"values": "<DVC_METRIC_DATA>"}
    anchors = set(re.findall("<DVC_METRIC_[A-Z_]+>", spoken(TEMPLATES[name])))
    # With an optional anchor (colour, tooltip …) DVC may drop the field that says which row a point belongs to.
    assert anchors == {f"<DVC_METRIC_{what}>" for what in ("DATA", "TITLE", "X", "Y")}


@pytest.mark.parametrize(("name", "x", "y"), [("curves", "epoch", "(%)"), ("distance", "block", "(% of the image's side)")])
def test_axes_are_named_with_units_and_rows_can_be_told_apart(name, x, y):
    spec = json.loads(spoken(TEMPLATES[name]))
    encoding = spec["encoding"]
    assert encoding["x"]["title"].startswith(x) and encoding["y"]["title"].endswith(y)
    rows = yaml.safe_load((ROOT / "params.yaml").read_text())["rows"]
    colours = encoding["color"]["scale"]["range"]
    assert len(set(colours)) == len(colours) >= len(rows) and encoding["color"]["field"] == "row"
    assert encoding["color"]["legend"]["orient"] == "right" and encoding["color"]["sort"] is None
    params = {param["name"]: param for layer in spec["layer"] for param in layer.get("params", [])}
    assert params["picked"]["bind"] == "legend" and params["hovered"]["select"]["nearest"]
    (tooltip,) = [layer["encoding"]["tooltip"] for layer in spec["layer"] if "tooltip" in layer["encoding"]]
    assert {"row", "y"} <= {shown["field"] for shown in tooltip}


def test_the_two_templates_differ_in_words_and_unit_only():
    def bare(name):
        text = spoken(TEMPLATES[name]).replace("100 * toNumber", "toNumber")
        return re.sub(
            r'"(title|description)": "(?!row|revision)[^"<]*"', "", json.dumps(json.loads(text), ensure_ascii=False)
        )

    assert bare("curves") == bare("distance")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """plot -> the specification that `dvc plots show` put into its page, on made-up numbers."""
    root = tmp_path_factory.mktemp("plots")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    curves = [[row, epoch, epoch / 100] for row in ROWS for epoch in range(12)]
    distances = [[row, b, b] for row in ROWS for b in range(1, 3 if row == "convnext_tiny" else 5)]
    write_csv(root / "results/dvc/curves/mine.csv", ["row", "epoch", "top1"], curves)
    write_csv(root / "results/dvc/distances/mine.csv", ["row", "block", "distance"], distances)
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"plots": plots}))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    command = ["dvc", "plots", "show", "-o", "page"]
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and "failed" not in done.stderr, done.stderr
    page = (root / "page" / "index.html").read_text()
    found = re.findall(r"var spec = (.*);\n\s*vegaEmbed\('#(\w+)'", page)
    kinds = {"curves": "curves", "distances": "distance"}
    specs = [json.loads(spec) for spec, _ in found]
    return {kinds[spec["title"]["text"].split("/")[2]]: spec for spec in specs}


@pytest.mark.parametrize("name", TEMPLATES)
def test_dvc_fills_a_template(shown, name):
    spec = shown[name]
    assert "<DVC_METRIC" not in json.dumps(spec) and spec["title"]["text"].endswith("mine.csv")
    points = spec["data"]["values"]
    assert {point["row"] for point in points} == set(ROWS) and {point["rev"] for point in points} == {"workspace"}
    x, y = (re.search(r"datum\['(\w+)'\]", step["calculate"])[1] for step in spec["transform"][:2])
    mine = [(float(p[x]), float(p[y])) for p in points if p["row"] == "convnext_tiny"]
    assert mine == ([(epoch, epoch / 100) for epoch in range(12)] if name == "curves" else [(1, 1), (2, 2)])


def test_the_pipeline_names_templates_that_are_there():
    for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]:
        for name, about in plot.items():
            assert about.get("template", "curves") in TEMPLATES, name


# Binder and Colab


@pytest.fixture(scope="module")
def badges():
    spec = importlib.util.spec_from_file_location("badges", ROOT / "binder" / "badges.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements(path):
    """(name, version) of every line of a requirements file, with the files that it includes."""
    found = set()
    for line in re.split(r"\n(?=\S)", path.read_text()):
        if line.startswith("-r "):
            found |= requirements(path.parent / line[3:].strip())
        elif not line.startswith("#"):
            assert "--hash=sha256:" in line, line  # one line without a hash and pip refuses them all
            found.add(tuple(line.split()[0].split("==")))
    return found


def test_binder_installs_the_versions_of_the_lock():
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {(package["name"], package["version"]) for package in lock["package"]
              if package["name"] not in {"ctxnet", "ray", "grpcio", "msgpack", "protobuf"}}  # `scale`: not for the paper
    assert requirements(ROOT / "binder" / "requirements.txt") == locked
    assert "setuptools" in dict(locked)  # postBuild builds the package with it


def test_binder_has_the_python_of_the_conda_environment():
    python = next(d for d in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if "python=" in str(d))
    assert (ROOT / "binder" / "runtime.txt").read_text().strip() == python.replace("=", "-")


def test_binder_installs_the_package_itself_without_dependencies():
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!")
    subprocess.run(["bash", "-n", script], check=True)
    assert re.search(r"pip install .*--no-deps .*\.$", script.read_text(), flags=re.M)
    others = {"environment.yml", "Pipfile", "setup.py", "Dockerfile"}  # any of these would take precedence
    assert not others & {path.name for path in (ROOT / "binder").iterdir()}


def test_every_chapter_has_badges_that_open_it(badges):
    text = badges.markdown("owner", "name", "main")
    opened = [
        parse_qs(urlsplit(url).query)["labpath"][0] for url in re.findall(r"\((https://mybinder\.org/v2/[^)]*)\)", text)
    ]
    colab = re.findall(r"\(https://colab\.research\.google\.com/github/owner/name/blob/main/([^)]*)\)", text)
    chapters = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert opened == colab == chapters and len(chapters) >= 7
    assert "git clone -q --depth 1 --branch main https://github.com/owner/name\n%cd name\n" in text


@pytest.mark.parametrize(
    "url",
    ["https://github.com/o/r.x", "https://github.com/o/r.x.git", "git@github.com:o/r.x.git", "https://github.com/o/r.x/"],
)
def test_an_address_on_github_is_read_in_any_form(badges, url):
    assert badges.address(given=url) == ("o", "r.x")


def test_the_address_is_that_of_the_citation_else_of_origin(badges, tmp_path):
    (tmp_path / "CITATION.cff").write_text("title: x\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match="repository-code"):
        badges.address(tmp_path)
    subprocess.run(["git", "remote", "add", "origin", "git@github.com:a/b.git"], cwd=tmp_path, check=True)
    assert badges.address(tmp_path) == ("a", "b")
    (tmp_path / "CITATION.cff").write_text("repository-code: https://github.com/c/d\n")
    assert badges.address(tmp_path) == ("c", "d")
    with pytest.raises(ValueError, match="not a repository on GitHub"):
        badges.address(tmp_path, given="https://example.org/a/b")


def test_badges_of_the_readme_open_chapters_that_are_there():
    text = (ROOT / "README.md").read_text()
    paths = re.findall(r"mybinder\.org/v2/[^)]*labpath=([^)&]+)", text)
    paths += re.findall(r"colab\.research\.google\.com/github/[^/]+/[^/]+/blob/[^/]+/([^)]+)", text)
    assert all((ROOT / path.replace("%2F", "/")).is_file() for path in paths)
