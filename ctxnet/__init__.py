"""ctxnet: context in convolutional networks. Blocks that add it, measures that show it, and the paper around both."""

from .models import count_parameters, create_model, list_models, register_timm

__version__ = "0.1.0"
