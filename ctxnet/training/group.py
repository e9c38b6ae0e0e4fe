"""The processes that train one run together, each on its part of every batch.

They take the same global batches, in the order and with the augmentation that one process would give them: process r of N
computes images r, r + N, r + 2N … of each. Batch normalisation takes its statistics from the whole batch, gradients are
averaged (PyTorch's ``DistributedDataParallel``), so that the losses are those of one process but for rounding.

fastai's own way (``distrib_ctx``, by accelerate) deals out other batches than one process sees, and of what is left of it
``DistributedDataParallel`` is the whole; so it is used directly.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce

from .lean import EpochSums

PATIENCE = timedelta(hours=1)  # that the others have while the first writes and measures


class Group:
    """Alone, or one of several.

    Attributes:
        rank: of this process, from 0; the first one alone writes.
        size: how many there are.
    """

    rank, size = 0, 1

    def first(self, function, *args):
        """What the first process gets by ``function(*args)``, in all of them."""
        return function(*args)

    def prepare(self, model):
        """Let the network's normalisation see the whole batch."""

    def attach(self, learner):
        """Let the learner average gradients and sums over all processes."""

    def release(self, learner):
        """Give the learner's network back as it was made."""


ALONE = Group()


class Ranks(Group):
    """One of several processes of ``torch.distributed``, which is ready."""

    def __init__(self):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def first(self, function, *args):
        result = [function(*args) if self.rank == 0 else None]
        dist.broadcast_object_list(result, src=0)
        return result[0]

    def prepare(self, model):
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if type(module) is not nn.BatchNorm2d:
                    kind = type(module).__name__
                    raise ValueError(f"{name}: {kind} cannot be synchronised; nearest valid value: devices=1")
                module.__class__ = SharedBatchNorm2d

    def attach(self, learner):
        learner.new_sums = GroupSums
        # Buffers are equal anyway; a static graph allows for parameters that no loss depends on.
        learner.parallel = nn.parallel.DistributedDataParallel(learner.model, broadcast_buffers=False, static_graph=True)

    def release(self, learner):
        learner.parallel, learner.new_sums = None, EpochSums
        for module in learner.model.modules():
            if isinstance(module, SharedBatchNorm2d):
                module.__class__ = nn.BatchNorm2d


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, which are of one size.

    ``nn.SyncBatchNorm`` does this on a GPU and refuses a processor's tensors; there, two sums over all processes do.
    """

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        if x.device.type != "cpu":
            return nn.SyncBatchNorm.forward(self, x)
        size, whole = dist.get_world_size(), x.float()
        mean = all_reduce(whole.mean((0, 2, 3))) / size
        centred = whole - mean[:, None, None]
        var = all_reduce(centred.square().mean((0, 2, 3))) / size
        with torch.no_grad():
            self.num_batches_tracked += 1
            count = size * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels


class GroupSums(EpochSums):
    """Sums of a pass over a split whose parts went through several processes, the parts of the first of them first."""

    def mean_loss(self):
        sums = torch.stack([torch.as_tensor(v, dtype=torch.float64).cpu() for v in (self.loss, self.count)])
        sums = sums.to(self.loss.device)  # of a GPU, if its processes talk by NCCL
        dist.all_reduce(sums)
        return float(sums[0] / sums[1].clamp(min=1))

    def labels(self):
        return _joined(super().labels())

    def predicted(self):
        return _joined(super().predicted())


def _joined(part):
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return torch.cat(parts)


def launched():
    """Whether ``torchrun`` has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def join(device, **place):
    """Become one of several processes; returns the :class:`Group`.

    Args:
        device: "cpu" (they talk by gloo) or "cuda" (by NCCL, each with the GPU of its local rank).
        **place: ``init_method``, ``rank`` and ``world_size`` of ``torch.distributed.init_process_group``; what torchrun
            has set, unless given.
    """
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", place.get("rank", 0))))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE, **place)
    return Ranks()
