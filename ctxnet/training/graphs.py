"""A network's training step as CUDA graphs: recorded once, then replayed with one launch forward and one backward.

With small batches a GPU waits for the hundreds of kernels that Python launches one by one. What is computed stays the same.
"""

import torch


def record_graphs(model, *, batch_size, image_size, bf16=False):
    """Let ``model`` replay its forward and backward pass in training mode; in eval mode it stays as it was.

    From then on every batch in training must have this size, and the network keeps its parameters and buffers.

    Args:
        model: on a CUDA device, without hooks or ``torch.compile``; taken and left in training mode.
        batch_size, image_size: of the batches, float32 (batch_size, 3, image_size, image_size).
        bf16: record under bfloat16 autocast.

    Raises:
        RuntimeError: the network does something that no graph can hold, such as reading a value back to the processor.
    """
    model.train()
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, 3, image_size, image_size, device=device)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):  # a graph cannot hold the cache
        torch.cuda.make_graphed_callables(model, (images,), allow_unused_input=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():  # in place: the graphs keep the addresses
            buffer.copy_(before[name])  # statistics of the zeros it was warmed up with
