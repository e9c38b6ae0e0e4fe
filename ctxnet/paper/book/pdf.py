"""The paper as a PDF: the site's one-page version, printed by a browser without a window."""

import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
NAME = "ctxnet-paper.pdf"
_QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-pdf-header-footer", "--virtual-time-budget=20000",
]  # fmt: skip


def find_browser():
    """Path of a Chromium-like browser.

    Raises:
        FileNotFoundError: there is none; says what to install.
    """
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(
        f"no browser to print with: none of {', '.join(BROWSERS)} is here; "
        "install one (Debian: chromium) or leave the PDF out (--no-pdf)"
    )


def print_paper(site, browser=None):
    """Print ``paper.html`` of a site into ``ctxnet-paper.pdf`` beside it; returns its path.

    Raises:
        FileNotFoundError: no browser, or no page.
        RuntimeError: the browser made no PDF; with its last line.
    """
    site = Path(site).resolve()
    page, target = site / "paper.html", site / NAME
    if not page.exists():
        raise FileNotFoundError(f"{page}: no page to print; build the site first")
    browser = browser or find_browser()
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *_QUIET, f"--user-data-dir={profile}", f"--print-to-pdf={target}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode or not target.exists() or not target.read_bytes().startswith(b"%PDF"):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{browser} did not print {page}: {last}")
    return target
