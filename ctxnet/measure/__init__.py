"""How much context the layers of a model have (receptive field) and use (effective receptive field)."""

from ctxnet.measure.between import Field, field_in_layer, projective_field
from ctxnet.measure.calibration import calibrate
from ctxnet.measure.distance import mean_distance
from ctxnet.measure.effective import effective_receptive_field, residual_blocks, summed_erf
from ctxnet.measure.grids import GridRow, Tiling, grid_table, tiling
from ctxnet.measure.local import local_field
from ctxnet.measure.profile import ContextProfile, context_profile, profile_lattice
from ctxnet.measure.receptive_field import check_receptive_field, receptive_field
from ctxnet.measure.rules import register_rule
from ctxnet.measure.share import radius_of_share, share_within
from ctxnet.measure.unseen import Unseen, unseen_weights

__all__ = [
    "ContextProfile",
    "Field",
    "GridRow",
    "Tiling",
    "Unseen",
    "calibrate",
    "check_receptive_field",
    "context_profile",
    "effective_receptive_field",
    "field_in_layer",
    "grid_table",
    "local_field",
    "mean_distance",
    "profile_lattice",
    "projective_field",
    "radius_of_share",
    "receptive_field",
    "register_rule",
    "residual_blocks",
    "share_within",
    "summed_erf",
    "tiling",
    "unseen_weights",
]
