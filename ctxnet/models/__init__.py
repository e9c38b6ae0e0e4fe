"""ResNets with a context slot, the table of rows, and their construction by name."""

from .registry import count_parameters, create_model, list_models, register_timm
from .resnet import ResNet

__all__ = ["ResNet", "count_parameters", "create_model", "list_models", "register_timm"]
