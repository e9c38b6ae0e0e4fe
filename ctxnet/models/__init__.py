"""ResNets with a context slot, the table of rows, and their construction by name."""

from .registry import count_parameters, create_model, list_models, register_timm
from .resnet import ResNet
from .segmentation import create_segmenter, list_segmenters
from .trained import list_trained

__all__ = [
    "ResNet", "count_parameters", "create_model", "create_segmenter", "list_models", "list_segmenters", "list_trained",
    "register_timm",
]  # fmt: skip
