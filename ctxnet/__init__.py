"""ctxnet: context in convolutional networks. Blocks that add it, measures that show it, and the paper around both."""

from . import process  # noqa: F401, I001  first of all imports: a stage is tied to its parent before seconds of them

from .measure import (
    ContextProfile,
    check_receptive_field,
    context_profile,
    effective_receptive_field,
    mean_distance,
    receptive_field,
)
from .models import (
    count_parameters,
    create_model,
    create_segmenter,
    list_models,
    list_segmenters,
    list_trained,
    register_timm,
)

__version__ = "0.1.0"

__all__ = [
    "ContextProfile",
    "check_receptive_field",
    "context_profile",
    "count_parameters",
    "create_model",
    "create_segmenter",
    "effective_receptive_field",
    "list_models",
    "list_segmenters",
    "list_trained",
    "mean_distance",
    "receptive_field",
    "register_timm",
]
