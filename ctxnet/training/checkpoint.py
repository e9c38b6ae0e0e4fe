"""Checkpoints: model, optimiser and history after an epoch, in one digest-checked file."""

import time

import torch

from ..tensors import load_tensors, save_tensors

SHARE = 0.05


class Checkpoints:
    """Checkpoints of one run, as many as take no more than ``SHARE`` of its time.

    A full-size network with its optimiser is some hundred megabytes: on a GPU that can take longer than an epoch.

    Args:
        path: of the file.
        learner: whose state is kept.
        kept: called with ``path`` after every writing, which its time is part of; None: nothing.
    """

    def __init__(self, path, learner, kept=None):
        self.path, self.learner, self.kept = path, learner, kept
        self.cost, self.written, self.pending = 0.0, time.perf_counter(), None

    def after_epoch(self, state):
        """Write the learner and ``state``, unless too little time has passed since the last writing."""
        self.pending = state
        if SHARE * (time.perf_counter() - self.written) >= self.cost:
            self.write()

    def write(self):
        """Write what the last epoch left, if it is not written yet. To be called before the next epoch begins."""
        if self.pending is None:
            return
        started = time.perf_counter()
        save_checkpoint(self.path, self.learner, self.pending)
        if self.kept is not None:
            self.kept(self.path)
        self.written, self.pending = time.perf_counter(), None
        self.cost = self.written - started


def save_checkpoint(path, learner, state):
    """Write the learner's model and optimiser and the JSON-able ``state``, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in learner.model.state_dict().items()}
    optimizer = _take_apart(learner.opt.state_dict(), "optimizer", tensors)
    save_tensors(path, tensors, {**state, "optimizer": optimizer})


def load_checkpoint(path, learner):
    """Put back what :func:`save_checkpoint` took; returns its ``state``.

    Raises:
        ValueError: in one line with the path, if the file is damaged.
    """
    tensors, state = load_tensors(path)
    learner.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    device = next(learner.model.parameters()).device  # fastai's optimisers do not move what they are given
    tensors = {name: tensor.to(device) for name, tensor in tensors.items() if name.startswith("optimizer")}
    learner.opt.load_state_dict(_put_together(state.pop("optimizer"), tensors))
    _lay_out_like_parameters(getattr(learner.opt, "opt", learner.opt))
    return state


def _lay_out_like_parameters(optimizer):
    """Give the optimiser's tensors the memory format of their parameters.

    A fused optimiser walks through both in the order in which they lie in memory. A file holds them in one order.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = optimizer.state[parameter]
            for name, value in kept.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter).copy_(value)


def _take_apart(tree, name, tensors):
    """Nested dicts and lists with tensors as leaves, as JSON: each tensor goes into ``tensors`` under its path.

    A dict becomes a list of pairs, because JSON would turn its integer keys into strings.
    """
    if hasattr(tree, "detach"):
        tensors[name] = tree.clone()  # what shares storage cannot be saved
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, _take_apart(value, f"{name}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, str | int | float | None):
        return tree
    return {"list": [_take_apart(value, f"{name}.{i}", tensors) for i, value in enumerate(tree)]}


def _put_together(tree, tensors):
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_together(value, tensors) for key, value in content}
    return [_put_together(value, tensors) for value in content]
