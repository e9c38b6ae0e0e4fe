"""What all tests share."""

import random

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--networks", type=int, default=2000, help="random networks that `-m torture` measures")


# A file is one worker's (`--dist loadfile`), and these take a minute or so: begun last, one would keep all others waiting.
LONGEST = ["pipeline", "training", "site", "scale", "models", "report", "kinds", "resuming", "campaign", "devices"]
LONGEST += ["extending", "crafted", "thesis_size"]


def pytest_collection_modifyitems(items):
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True)
def _one_stream_of_random_numbers():
    """Every test draws the same numbers, whichever tests ran before it in its process.

    The comparison of precisions needs it: unscaled attention is nearly one-hot, and with some inputs two positions are
    so close to a tie that rounding decides between them.
    """
    random.seed(0)
    torch.manual_seed(0)
