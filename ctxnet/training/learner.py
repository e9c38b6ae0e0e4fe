"""The fastai Learner: our own light bookkeeping instead of the Recorder, one progress bar for the run."""

import math
from functools import partial

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.progress import ProgressCallback
from fastai.learner import Recorder
from fastai.optimizer import OptimWrapper, ranger
from fastai.torch_core import trainable_params
from tqdm.auto import tqdm

from .graphs import record_graphs
from .lean import LeanLearner
from .schedule import learning_rate
from .task import TASKS


class Bookkeeper(Callback):
    """Mean losses, score, labels and predictions of the last epoch, read from the device once per split.

    ``valid_loss`` and ``score`` are None after an epoch without validation.

    A loss that is not finite ends the epoch there and is left in ``failure``.
    """

    order = 60
    failure = None

    def __init__(self, task):
        self.task = task

    def before_train(self):
        self.valid_loss = self.score = None

    def after_train(self):
        self.train_loss = self._mean_loss("training")
        if self.learn.keep_answers:
            self.train_score = self._score()

    def after_validate(self):
        self.valid_loss = self._mean_loss("validation")
        self.labels, self.predicted = self.learn.sums.labels(), self.learn.sums.predicted()
        self.score = self._score()

    def _score(self):
        return self.task.mean(self.learn.sums.predicted(), self.learn.sums.labels(), self.learn.dls.c)

    def _mean_loss(self, what):
        loss = self.learn.sums.mean_loss()
        if not math.isfinite(loss):
            self.failure = f"{what} loss is {loss}"
            raise CancelFitException  # fastai would wrap any other error in lines of its own
        return loss


class StepRate(Callback):
    """The learning rate of schedule "linear", which changes with every step."""

    def __init__(self, protocol):
        self.protocol, self.epoch_number = protocol, 0

    def before_batch(self):
        if self.learn.training:
            progress = self.epoch_number + (self.learn.iter + 0.5) / self.learn.n_iter
            self.learn.opt.set_hypers(lr=learning_rate(self.protocol, progress))


class RunProgress(Callback):
    """One bar over all batches of all epochs, so that its estimate is that of the whole run."""

    order = 65

    def __init__(self, description, *, total, done):
        self.bar = tqdm(total=total, initial=done, desc=description, unit="batch", mininterval=2.0)

    def after_batch(self):
        self.bar.update()

    def after_epoch(self):
        keeper = self.learn.bookkeeper
        if keeper.score is not None:
            shown = {keeper.task.score: f"{keeper.score:.3f}"}
            self.bar.set_postfix(train_loss=f"{keeper.train_loss:.3f}", **shown)

    def close(self):
        self.bar.close()


def layout(model):
    """The memory format to train ``model`` in: channels last, in which convolutions run fastest, where that is safe.

    oneDNN (its issue 6035; in PyTorch 2.11) computes the weights' gradient of a strided 1×1 convolution of fewer than 8
    channels in this format by writing past its workspace, on processors with AVX2 and no AVX-512: gradients are wrong and
    the process may die later, anywhere. Networks that have one (ResNets of ``width`` below 8) keep PyTorch's own format.
    """
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    unsafe = any(conv.kernel_size == (1, 1) and max(conv.stride) > 1 and conv.in_channels < 8 for conv in convolutions)
    return torch.contiguous_format if unsafe else torch.channels_last


def build_learner(model, dls, protocol, *, cbs=()):
    """A Learner on ``protocol.device`` with the protocol's optimiser, weights in ``layout(model)``, and a ``Bookkeeper``."""
    task = TASKS[protocol.task]
    learner = LeanLearner(
        dls, model.to(protocol.device, memory_format=layout(model)),
        loss_func=task.loss(protocol.label_smoothing),
        opt_func=_optimizer(protocol),
        splitter=weights_and_others if protocol.decay_weights_only else trainable_params,
        cbs=[Bookkeeper(task), *([StepRate(protocol)] if protocol.schedule == "linear" else []), *cbs],
    )
    learner.remove_cbs([Recorder, ProgressCallback])
    learner.judge = task.judge
    learner.bf16, learner.keep_answers = protocol.precision == "bf16", protocol.train_top1
    if protocol.compile:
        learner.model.compile(backend=protocol.compile)
    learner.create_opt()
    if protocol.decay_weights_only:
        learner.opt.set_hypers(wd=[protocol.weight_decay, 0.0])
    if protocol.cuda_graph and protocol.device == "cuda":
        record_graphs(
            learner.model, batch_size=protocol.batch_size, image_size=protocol.image_size, bf16=learner.bf16
        )
    return learner


def weights_and_others(model):
    """Two groups of parameters: weights of layers, and biases, gains and the like, which have one dimension."""
    parameters = trainable_params(model)
    return [[p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]]


def _optimizer(protocol):
    """fastai's ``opt_func``. SGD and AdamW are torch's own: fastai's launch hundreds of small kernels a step."""
    decay, fused = protocol.weight_decay, True
    if protocol.optimizer == "ranger":
        return partial(ranger, mom=protocol.momentum, wd=decay)
    if protocol.optimizer == "adamw":
        betas = (protocol.momentum, 0.999)
        return partial(OptimWrapper, opt=torch.optim.AdamW, betas=betas, weight_decay=decay, fused=fused)
    return partial(OptimWrapper, opt=torch.optim.SGD, momentum=protocol.momentum, nesterov=protocol.nesterov,
                   weight_decay=decay, fused=fused)


def require_graphs():
    """Refuse to go on if ``torch.compile`` has compiled nothing, which it does in silence for some containers.

    Raises:
        RuntimeError: naming the setting.
    """
    from torch._dynamo.utils import counters

    if not counters["stats"]["unique_graphs"]:
        raise RuntimeError("compile: no part of the network was compiled; nearest valid value: compile=''")


def fit_epoch(learner, epoch, rate, *, validate=True):
    """Train and (with ``validate``) validate once at a fixed learning rate; returns the learner's ``Bookkeeper``.

    Raises:
        FloatingPointError: if the training or the validation loss is not finite.
    """
    learner.validating = validate
    if hasattr(learner, "step_rate"):
        learner.step_rate.epoch_number = epoch
    learner.fit(1, lr=rate)
    if learner.model._compiled_call_impl is not None:
        require_graphs()
    if learner.bookkeeper.failure:
        raise FloatingPointError(
            f"{learner.bookkeeper.failure} in epoch {epoch}; nothing is recorded; lower learning_rate={rate:g}"
        )
    return learner.bookkeeper
