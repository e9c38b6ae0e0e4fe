"""Print Markdown that opens the chapters on Binder and Colab: for README.md, once the repository has an address.

    python binder/badges.py                              # repository-code of CITATION.cff, else the remote `origin`
    python binder/badges.py https://github.com/you/fork  # a fork
    python binder/badges.py --branch new

Binder builds the environment in this folder. Colab has its own: there a first cell fetches the repository.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import yaml

ROOT = Path(__file__).parents[1]
GITHUB = re.compile(r"(?:https://github\.com/|git@github\.com:|ssh://git@github\.com/)([\w.-]+)/([\w.-]+?)(?:\.git)?/?")


def address(root=ROOT, given=None):
    """(owner, name) of the repository on GitHub: ``given``, or what CITATION.cff says, or the remote ``origin``.

    Raises:
        ValueError: there is no address, or it is not on GitHub.
    """
    found = given or yaml.safe_load((Path(root) / "CITATION.cff").read_text(encoding="utf-8")).get("repository-code")
    if not found:
        words = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
        found = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    if not found:
        raise ValueError("no address: give one, or add repository-code to CITATION.cff or a remote called origin")
    match = GITHUB.fullmatch(found)
    if not match:
        raise ValueError(f"{found!r} is not a repository on GitHub, such as https://github.com/owner/name")
    return match[1], match[2]


def chapters(root=ROOT):
    """Path of every chapter, relative to the root."""
    return [path.relative_to(root).as_posix() for path in sorted((Path(root) / "notebooks").glob("*.ipynb"))]


def first_cell(owner, name, branch="main"):
    """What has to run on Colab before a chapter: the repository as working folder, and the package without dependencies,
    as Colab has its own PyTorch. timm and safetensors, which not every Colab has, are left alone where they are there."""
    return "\n".join([
        f"!git clone -q --depth 1 --branch {branch} https://github.com/{owner}/{name}",
        f"%cd {name}",
        "%pip install -q --no-deps . timm safetensors",
    ])  # fmt: skip


def markdown(owner, name, branch="main", root=ROOT):
    """A table with two badges per chapter, and Colab's first cell."""
    lines = ["| chapter | Binder | Colab |", "|---|---|---|"]
    for path in chapters(root):
        binder = f"https://mybinder.org/v2/gh/{owner}/{name}/{branch}?labpath={quote(path, safe='')}"
        colab = f"https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/{path}"
        lines.append(
            f"| {Path(path).stem} | [![Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
            f"| [![Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) |"
        )
    cell = first_cell(owner, name, branch)
    return "\n".join([*lines, "", "On Colab, run this in a new first cell:", "", "```python", cell, "```"])


def main(words=None):
    parser = argparse.ArgumentParser(description="Print badges that open the chapters on Binder and Colab.")
    parser.add_argument("address", nargs="?", help="of the repository on GitHub, instead of its own")
    parser.add_argument("--branch", default="main")
    args = parser.parse_args(words)
    try:
        print(markdown(*address(given=args.address), args.branch))
    except ValueError as error:
        sys.exit(f"badges: {error}")


if __name__ == "__main__":
    main()
