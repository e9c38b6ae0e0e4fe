"""The index of the site's search: every section of every page, as a script, since pages from a disk may fetch nothing."""

import html
import json
import re

_HEADING = re.compile(r"<h([1-4])\b([^>]*)>(.*?)</h\1>", re.S)
_HIDDEN = re.compile(r"<(details|nav|script|style|math)\b.*?</\1>", re.S)


def sections(page, title, body):
    """Sections of one page's main part.

    Args:
        page: its address; title: its title; body: its HTML.

    Returns:
        list of dicts with ``page`` (address with anchor), ``title``, ``heading`` and ``text``.
    """
    body = _HIDDEN.sub(" ", body)
    found, start, place = [], 0, (page, title)
    for heading in [*_HEADING.finditer(body), None]:
        text = _text(body[start : heading.start() if heading else len(body)])
        if text or place[1] != title:
            found.append({"page": place[0], "title": title, "heading": place[1], "text": text})
        if heading:
            anchor = re.search(r'id="([^"]+)"', heading[2])
            place = (f"{page}#{anchor[1]}" if anchor else page, _text(heading[3]).removesuffix("¶").strip())
            start = heading.end()
    return found


def script(entries):
    """The index as a script."""
    return f"window.ctxnetIndex = {json.dumps(entries, ensure_ascii=False, separators=(',', ':'))};\n"


def _text(markup):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())
