"""fastai's Learner without its cost per step.

fastai sends a dozen events per batch to every callback, through several layers of attribute look-up, and wraps
predictions in a tensor subclass; with a small network that takes longer than the step itself. Here an event goes
only to callbacks that have a method for it, found once, and sums for the report stay on the device until the epoch
ends. What is computed is the same, bit by bit, and so is what callbacks see.
"""

import torch
import torch.nn.functional as F
from fastai.callback.core import CancelBackwardException, CancelBatchException, CancelStepException, TrainEvalCallback, event
from fastai.learner import Learner


class EpochSums:
    """Loss, predictions and labels of one pass over a split, on the device; reading them is the only synchronisation."""

    def __init__(self):
        self.loss, self.count, self.outputs, self.targets = 0.0, 0, [], []

    def add(self, loss, prediction, target, *, keep):
        size = len(target)
        self.loss = self.loss + loss.detach() * size
        self.count += size
        if keep:
            answer = prediction.argmax(1)
            maps = answer.ndim > 1  # of classes: a byte each is enough
            self.outputs.append(answer.byte() if maps else answer)
            self.targets.append(target.byte() if maps else target)

    def mean_loss(self):
        return float(self.loss) / max(self.count, 1)

    def labels(self):
        return torch.cat(self.targets).cpu()

    def predicted(self):
        return torch.cat(self.outputs).cpu()


def _listens(callback, event_name):
    if event_name == "after_fit":  # resets each callback, whether it has a method or not
        return True
    if event_name == "after_batch" and type(callback) is TrainEvalCallback:  # its counting is done in one_batch
        return False
    return hasattr(callback, event_name)


class LeanLearner(Learner):
    """A Learner whose batches cost what they compute. ``sums`` holds those of the current split.

    With ``bf16`` the network runs under bfloat16 autocast, its weights, loss and optimiser in float32. With
    ``keep_answers`` the sums hold labels and predictions of training too. With ``validating`` off an epoch ends with its
    training.

    ``judge`` is the loss in validation.

    ``parallel`` takes the network's place in training where several processes train it, and ``new_sums`` makes their sums.

    Callbacks are asked for their methods when they are added; a method given to one later is not called.
    """

    bf16 = keep_answers = False
    judge = staticmethod(F.cross_entropy)
    validating = True
    parallel, new_sums = None, EpochSums

    def add_cb(self, cb):
        self._listeners = {}
        return super().add_cb(cb)

    def remove_cb(self, cb):
        self._listeners = {}
        return super().remove_cb(cb)

    def __call__(self, event_name):
        for name in [event_name] if isinstance(event_name, str) else event_name:
            self._call_one(name)

    def _call_one(self, event_name):
        if event_name not in self._listeners:
            if not hasattr(event, event_name):
                raise ValueError(f"unknown event {event_name!r}")
            self._listeners[event_name] = [c for c in self.cbs.sorted("order") if _listens(c, event_name)]
        for callback in self._listeners[event_name]:
            callback(event_name)

    def _do_epoch(self):
        self._do_epoch_train()
        if self.validating:
            self._do_epoch_validate()

    def _do_epoch_train(self):
        self.sums = self.new_sums()
        super()._do_epoch_train()

    def _do_epoch_validate(self, ds_idx=1, dl=None):
        self.sums = self.new_sums()
        super()._do_epoch_validate(ds_idx, dl)

    def all_batches(self):
        self._device = next(self.model.parameters()).device
        super().all_batches()

    def one_batch(self, i, b):
        self.iter = i
        if b[0].device != self._device:
            b = self._set_device(b)
        self._split(b)
        try:
            self._call_one("before_batch")
            self._do_one_batch()
        except CancelBatchException:
            self._call_one("after_cancel_batch")
        if self.training:
            self.pct_train += 1 / (self.n_iter * self.n_epoch)
            self.train_iter += 1
        self._call_one("after_batch")

    def _do_one_batch(self):
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16):
            self.pred = (self.parallel if self.parallel and self.training else self.model)(*self.xb)
        if self.bf16:
            self.pred = self.pred.float()
        self._call_one("after_pred")
        # a smoothed target is for learning; what is validated is judged by the true one
        self.loss_grad = (self.loss_func if self.training else self.judge)(self.pred, *self.yb)
        self.loss = self.loss_grad.detach()
        self._call_one("after_loss")
        self.sums.add(self.loss_grad, self.pred, self.yb[0], keep=self.keep_answers or not self.training)
        if self.training:
            self._do_grad_opt()

    def _do_grad_opt(self):
        try:
            self._call_one("before_backward")
            self.loss_grad.backward()
        except CancelBackwardException:
            self._call_one("after_cancel_backward")
        self._call_one("after_backward")
        try:
            self._call_one("before_step")
            self.opt.step()
        except CancelStepException:
            self._call_one("after_cancel_step")
        self._call_one("after_step")
        self.opt.zero_grad()
