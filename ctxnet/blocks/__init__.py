"""The thesis' operators, one file per section (3.1 … 3.5). They know nothing of models or data."""

import importlib
import pkgutil

from .attention import PermutationAttention
from .dilated import InsertedDilatedConv
from .half import HalfMean, HalfPermutation, HalfShift, IdentityCopy
from .permutation import SpatialPermutation
from .random_dilated import RandomDilatedConcat, RandomDilatedConv

BLOCKS = {
    "permutation": SpatialPermutation,
    "attention": PermutationAttention,
    "inserted_dilated": InsertedDilatedConv,
    "random_dilated": RandomDilatedConcat,
    "random_dilated_conv": RandomDilatedConv,
    "half_shift": HalfShift,
    "half_permutation": HalfPermutation,
    "half_mean": HalfMean,
    "identity_copy": IdentityCopy,
}

# A block of a file that is not named above is known by the name that its class states: ``context = "my_block"``.
for _file in pkgutil.iter_modules(__path__):
    for _block in vars(importlib.import_module(f"{__name__}.{_file.name}")).values():
        if isinstance(_block, type) and "context" in vars(_block):
            BLOCKS[_block.context] = _block
