"""Recurrent layers as one step of a graph each: traced as they are, a GRU over 500 columns would be 10,000 calls."""

import torch
from torch.overrides import TorchFunctionMode

from ctxnet.measure.rules import Keep, Mix, Permute, Whole, Window, rule

_KINDS = ("gru", "lstm", "rnn_tanh", "rnn_relu")

torch.library.define(
    "ctxnet::recurrent",
    "(Tensor x, Tensor[] state, Tensor[] weights, str kind, bool biases, int layers, bool both, bool first) -> Tensor[]",
)


@torch.library.impl("ctxnet::recurrent", "CompositeExplicitAutograd")
def _recurrent(x, state, weights, kind, biases, layers, both, first):
    state = list(state) if kind == "lstm" else state[0]
    return list(getattr(torch._VF, kind)(x, state, list(weights), biases, layers, 0.0, False, both, first))


class WholeRecurrences(TorchFunctionMode):
    """Within it GRU, LSTM and RNN over a plain sequence are one call of ``ctxnet::recurrent``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kind = getattr(func, "__name__", "")
        if kind in _KINDS and not kwargs and len(args) == 9 and isinstance(args[3], bool):  # of packed ones that is a tensor
            x, state, weights, biases, layers, _, _, both, first = args
            state = list(state) if kind == "lstm" else [state]
            return tuple(torch.ops.ctxnet.recurrent(x, state, list(weights), kind, biases, layers, both, first))
        return func(*args, **(kwargs or {}))


@rule("ctxnet::recurrent")
def recurrence(call):
    """A step sees all that came before it, in two directions in half of the features each; the last state sees all."""
    states = [(node, [Whole(node.meta["val"].shape)]) for node in call["state"] if call.live(node)]
    node = call["x"]
    if not call.live(node):
        return states, True
    time = 1 if call["first"] else 0
    steps = node.meta["val"].shape[time]
    if call.index != 0 or (call["both"] and call["layers"] > 1):
        return [(node, [Mix([time, 2])]), *states], True
    past = torch.ones(steps, steps).tril().bool()
    order = [1 - time, 2, time]
    back = sorted(range(3), key=order.__getitem__)
    at = [torch.arange(steps, dtype=torch.float64)]
    result = []
    for number, reach in enumerate([past, past.T] if call["both"] else [past]):
        half = torch.arange(call.shape[2]) // (call.shape[2] // (1 + call["both"])) == number
        walk = [Mix([2]), Permute(order), Window([reach], at, steps), Permute(back)]
        result.append((node, [*walk, Keep(half.expand(call.shape))] if call["both"] else walk))
    return [*result, *states], True
