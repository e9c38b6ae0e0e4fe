"""The thesis' operators, one file per section (3.1 … 3.5). They know nothing of models or data."""

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
