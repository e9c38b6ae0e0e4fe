"""From records to the paper: tables, figures, the report page. Nothing below this package imports it."""

from ctxnet.extras import require

require("plot", user=__name__)
