"""Statistics for the batch normalisation of a network that has not been trained, so that it can be measured."""

import torch


@torch.no_grad()
def calibrate(model, images):
    """Set the running statistics of batch normalisation to those of ``images`` (N, 3, H, W).

    All else is as in evaluation: dropout would make the statistics another draw each time.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average: after one batch, that batch's statistics
    model.eval()
    for norm in norms:
        norm.train()
    model(images)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    model.eval()
