"""The paper as pages: executed chapters, atlas, model cards, explorer and PDF, readable without a server."""

from ctxnet.paper.book.build import build_site

__all__ = ["build_site"]
