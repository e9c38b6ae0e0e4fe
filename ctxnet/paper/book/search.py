"""The index of the site's search: every section of every page, as a script, since pages from a disk may fetch nothing."""

import html
import json
import re

_HEADING = re.compile(r"<h([1-4])\b([^>]*)>(.*?)</h\1>", re.S)
_HIDDEN = re.compile(r"<(details|nav|script|style|math)\b.*?</\1>", re.S)


def sections(page, title, body):
    """Sections of the page at the address ``page``, whose main part is the HTML ``body``.

    Returns:
        list of dicts with ``page`` (address with anchor), ``title``, ``heading`` and ``text``.
    """
    found, (before, *rest) = [], _HEADING.split(_HIDDEN.sub(" ", body))
    headed = zip(rest[1::4], rest[2::4], rest[3::4], strict=True)  # between them stand the levels
    for attributes, heading, text in [("", title, before), *headed]:
        heading, text = _text(heading).removesuffix("¶").strip(), _text(text)
        if text or heading != title:
            anchor = re.search(r'id="([^"]+)"', attributes)
            place = f"{page}#{anchor[1]}" if anchor else page
            found.append({"page": place, "title": title, "heading": heading, "text": text})
    return found


def script(entries):
    """The index as a script."""
    return f"window.ctxnetIndex = {json.dumps(entries, ensure_ascii=False, separators=(',', ':'))};\n"


def _text(markup):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())
