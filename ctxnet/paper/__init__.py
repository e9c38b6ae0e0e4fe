"""What presents the results: statistics, tables, figures, pages. It reads records and never measures."""

from ctxnet.extras import require

require("plot", user=__name__)
