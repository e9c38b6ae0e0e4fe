"""The paper as a static site: executed chapters, atlas, model cards, explorer and PDF, readable without a server."""

from ctxnet.paper.book.build import build_site, require_figures

__all__ = ["build_site", "require_figures"]
