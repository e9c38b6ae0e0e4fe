"""From one machine to many: campaigns on Ray."""

from ..extras import require

require("scale", user="a campaign side by side")

from .campaign import campaign_on_ray

__all__ = ["campaign_on_ray"]
