"""How much context the layers of a model have (receptive field) and use (effective receptive field)."""

from ctxnet.measure.calibration import calibrate
from ctxnet.measure.distance import mean_distance
from ctxnet.measure.effective import effective_receptive_field, residual_blocks, summed_erf
from ctxnet.measure.profile import ContextProfile, context_profile, profile_lattice
from ctxnet.measure.receptive_field import check_receptive_field, receptive_field
from ctxnet.measure.rules import register_rule

__all__ = [
    "ContextProfile",
    "calibrate",
    "check_receptive_field",
    "context_profile",
    "effective_receptive_field",
    "mean_distance",
    "profile_lattice",
    "receptive_field",
    "register_rule",
    "residual_blocks",
    "summed_erf",
]
