"""From one machine to many: campaigns on Ray (:func:`ctxnet.scale.campaign.campaign_on_ray`).

Its modules are imported where they are used: whether a cluster answers is asked before seconds of imports.
"""

from ..extras import require

require("scale", user="a campaign side by side")
