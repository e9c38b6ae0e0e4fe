"""What publishes the repository: workflows, citation, changelog."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import ctxnet

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# What a job may do beside reading; such a job runs no code of the repository.
ALLOWED = {("pages", "publish"): {"pages": "write", "id-token": "write"}, ("release", "publish"): {"contents": "write"}}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_pinned_and_may_write_only_where_none_of_our_code_runs(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) == ALLOWED.get((path.stem, name), {}), name
        assert "timeout-minutes" in job
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert used and all(re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", each) for each in used)
        if "permissions" in job:
            assert not any("checkout" in each for each in used)


def test_workflows_call_what_the_makefile_has():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    called = {name for path in WORKFLOWS for name in re.findall(r"\bmake ([a-z]+)", path.read_text())}
    assert {"site", "dist"} <= called <= targets


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_has_nothing_to_say():
    done = subprocess.run(["actionlint", *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_citation_zenodo_package_and_changelog_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    kept = json.loads((ROOT / ".zenodo.json").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["title"] == kept["title"] and cited["keywords"] == kept["keywords"]
    assert cited["version"] == kept["version"] == package["version"] == ctxnet.__version__
    assert cited["license"] == kept["license"] == package["license"]
    names = [author.get("name") or f"{author['family-names']}, {author['given-names']}" for author in cited["authors"]]
    assert names == [creator["name"] for creator in kept["creators"]]
    thesis = cited["references"][0]
    (reference,) = kept["references"]
    for part in (thesis["title"], thesis["authors"][0]["family-names"], str(thesis["year"])):
        assert part in reference
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert sections[0] == "Unreleased" and sections[1] == package["version"]
