"""The fastai Learner: plain SGD, our own light bookkeeping instead of the Recorder, one progress bar for the run."""

import math
from functools import partial

import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner, Recorder
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from tqdm.auto import tqdm


class Bookkeeper(Callback):
    """Mean losses, top-1 and predictions of the last epoch, kept on the device and read once per epoch.

    Raises:
        FloatingPointError: at the end of an epoch's training whose loss is not finite.
    """

    order = 60

    def before_train(self):
        self.loss_sum, self.count = 0.0, 0

    def before_validate(self):
        self.loss_sum, self.count, self.outputs, self.targets = 0.0, 0, [], []

    def after_loss(self):
        size = len(self.learn.yb[0])
        self.loss_sum = self.loss_sum + self.learn.loss_grad.detach() * size
        self.count += size
        if not self.learn.training:
            self.outputs.append(self.learn.pred.argmax(1))
            self.targets.append(self.learn.yb[0])

    def after_train(self):
        self.train_loss = float(self.loss_sum) / max(self.count, 1)
        if not math.isfinite(self.train_loss):
            raise FloatingPointError(
                f"training loss is {self.train_loss} in epoch {self.learn.current_epoch}; lower learning_rate"
            )

    def after_validate(self):
        self.valid_loss = float(self.loss_sum) / self.count
        self.predicted = torch.cat([o.cpu() for o in self.outputs])
        self.labels = torch.cat([t.cpu() for t in self.targets])
        self.top1 = float((self.predicted == self.labels).double().mean())


class RunProgress(Callback):
    """One bar over all batches of all epochs, so that its estimate is that of the whole run."""

    order = 65

    def __init__(self, description, *, total, done):
        self.bar = tqdm(total=total, initial=done, desc=description, unit="batch", mininterval=2.0)

    def after_batch(self):
        self.bar.update()

    def after_epoch(self):
        keeper = self.learn.bookkeeper
        self.bar.set_postfix(train_loss=f"{keeper.train_loss:.3f}", top1=f"{keeper.top1:.3f}")

    def close(self):
        self.bar.close()


def build_learner(model, dls, protocol, *, cbs=()):
    """A Learner on ``protocol.device`` with SGD as the protocol has it, channels-last weights, and a ``Bookkeeper``.

    The optimiser is torch's own, wrapped: fastai's SGD launches hundreds of small kernels a step.
    """
    sgd = partial(
        OptimWrapper, opt=torch.optim.SGD, momentum=protocol.momentum, weight_decay=protocol.weight_decay,
        fused=protocol.device == "cuda",
    )
    learner = Learner(
        dls, model.to(protocol.device, memory_format=torch.channels_last), loss_func=CrossEntropyLossFlat(), opt_func=sgd,
        cbs=[Bookkeeper(), *cbs],
    )
    learner.remove_cbs([Recorder, ProgressCallback])
    learner.create_opt()
    return learner


def fit_epoch(learner, epoch, rate):
    """Train and validate once at a fixed learning rate; returns the learner's ``Bookkeeper``."""
    learner.current_epoch = epoch
    learner.fit(1, lr=rate)
    return learner.bookkeeper
