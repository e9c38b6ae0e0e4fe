"""Random networks: what the measure calls exact is right, what it calls a bound contains what is right."""

import collections
import random
import warnings

import pytest
import torch
from torch import nn

from tests import fuzzing

PER_TEST = 50


def _judged(seeds):
    counts, wrong = collections.Counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in seeds:
            network = fuzzing.random_network(seed)
            verdict = fuzzing.judge(network, seed)
            counts[verdict.kind] += 1
            if verdict.kind == "wrong":
                wrong.append(f"seed {seed}: {verdict.why}\n{fuzzing.describe(network)}")
    assert not wrong, f"{len(wrong)} of {len(seeds)}\n" + "\n".join(wrong[:3])
    return counts


@pytest.mark.parametrize("part", range(3))
def test_random_networks(part):
    counts = _judged(range(part * PER_TEST, (part + 1) * PER_TEST))
    # Refusing everything, or calling everything a bound, would be no way out.
    assert counts["right"] >= 0.5 * PER_TEST and counts["refused"] <= 0.3 * PER_TEST
    assert counts["unjudged"] <= 0.3 * PER_TEST


@pytest.mark.torture
def test_many_random_networks(pytestconfig):
    number = pytestconfig.getoption("--networks")
    print(_judged(range(1000, 1000 + number)))


def test_networks_depend_on_their_seed_alone():
    first = [fuzzing.random_network(seed).texts for seed in (3, 4)]
    torch.rand(7)
    assert first == [fuzzing.random_network(seed).texts for seed in (3, 4)] and first[0] != first[1]


WRONG_ONCE = [  # (texts, size, map): networks on which this file found the measure wrong
    (["Fn(lambda x: x.tril())", "Fn(lambda x: F.interpolate(x, mode='bilinear', scale_factor=0.75, antialias=True))",
      "Fn(lambda x: x / (2 + x.norm(dim=3, keepdim=True)))"], (3, 6, 9), (4, 6)),
    (["nn.Sequential(Fn(lambda x: x.permute([0, 2, 3, 4, 1]).flatten(0, 2)), Recurrent('GRU', 4, 2, num_layers=1), "
      "Fn(lambda x: x.unflatten(0, (-1, 3, 2)).permute([0, 4, 1, 2, 3])))",
      "Residual(Residual(nn.Conv3d(2, 1, 1), Fn(lambda x, w: x @ w, dict(w=rand(19, 2, 2).tril())), how='cat'), how='cat')",
      "Fn(lambda x: x[..., 1:].repeat_interleave(2, 2))"], (4, 3, 2, 2), (6, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "size", "map_size"), WRONG_ONCE)
def test_what_was_wrong_once_is_right_or_refused(texts, size, map_size):
    network = fuzzing.Network(texts=texts, size=size, end="map", map=map_size, zero=False)
    assert fuzzing.judge(network).kind in ("right", "refused")


CHANNELS = [
    "nn.Conv2d(4, 4, 3, padding=1, groups=2)",
    "nn.Conv2d(4, 8, 1, groups=4)",
    "nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2)",
    "nn.Sequential(Fn(lambda x: torch.cat([x[:, :1, :, :2], x[:, 1:2, :, 2:4], x[:, 2:, :, 4:]], 1).repeat(1, 1, 1, 3)), "
    "nn.GroupNorm(2, 4), nn.Softplus())",
    "nn.ChannelShuffle(2)",
    "Fn(lambda x: F.glu(x + 0.7, 1))",
    "Fn(lambda x: x.cumsum(1))",
    "Fn(lambda x: x[:, torch.tensor([2, 0, 1, 3])])",
    "Fn(lambda x: torch.stack([x[:, 1], x[:, 3], x[:, 0]], 1))",
]


@pytest.mark.parametrize("text", CHANNELS)
@pytest.mark.parametrize("channel", [0, -1])
def test_channels_that_see_different_places_stay_apart(text, channel):
    uneven = "Fn(lambda x: torch.cat([x[:, :1], x[:, 1:2].roll(1, 2), x[:, 2:3].roll(2, 3), x[:, 3:].flip(2)], 1))"
    texts = [uneven, text, f"Fn(lambda x: x[:, {channel}:][:, :1])"]
    verdict = fuzzing.judge(fuzzing.Network(texts, (4, 5, 6), "map", (5, 6)))
    assert verdict.kind == "right", verdict


def _windows(r):
    """A chain of convolutions and pools without dilation, whose middle feature's field ends within the image."""
    texts = []
    for _ in range(r.randint(1, 4)):
        k, s = [tuple(r.randint(1, high) for _ in range(2)) for high in (4, 2)]
        p = tuple(r.randint(0, e // 2) for e in k)
        conv = f"nn.Conv2d(2, 2, {k}, {s}, {p}, groups={r.randint(1, 2)})"
        texts.append(r.choice([conv, f"nn.MaxPool2d({k}, {s}, {p})", f"nn.AvgPool2d({k}, {s}, {p}, ceil_mode=True)"]))
    return texts


@pytest.mark.parametrize("seed", range(30))
def test_features_sit_in_the_middle_of_their_fields(seed):
    r = random.Random(seed)
    texts = _windows(r)
    size = (2, r.randint(60, 70), r.randint(60, 70))
    network = fuzzing.Network(texts, size, "map", None)
    net = fuzzing.make(network)
    map = tuple(net(torch.zeros(1, *size)).shape[2:])
    at = tuple(n // 2 - r.randint(0, 1) for n in map)
    answers, grid = fuzzing.measured(network, net, lambda grid: [at])
    mask, exact = answers[0]
    for dim in range(2):
        line = mask.movedim(dim, 0).any(1).nonzero().flatten().tolist()
        assert exact and line[0] > 0 and line[-1] < size[1 + dim] - 1
        assert float(grid.centers[at][dim]) == pytest.approx((line[0] + line[-1]) / 2, abs=1e-9), texts


def _by_hand(text, map=(6, 7), size=(2, 6, 7)):
    return fuzzing.Network([text], size, "map", map)


def test_the_oracle_sees_through_what_hides_a_path():
    pooled = fuzzing.reached(_by_hand("nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 1, 1))"), 2)
    assert pooled[3 * 7 + 3].sum() == 25 and pooled[0].sum() == 9
    ceil = fuzzing.reached(_by_hand("nn.MaxPool2d((3, 2), 2, (1, 0), dilation=(1, 2), ceil_mode=True)", (4, 3)), 2)
    assert ceil[11].nonzero().tolist() == [[5, 4], [5, 6]]
    masked = fuzzing.reached(_by_hand("Fn(lambda x, m: x * m, dict(m=torch.arange(7.) % 2))"), 2)
    assert masked[3].sum() == 1 and masked[2].sum() == 0


def test_the_judge_notices_too_much_too_little_and_a_changed_model(monkeypatch):
    network = _by_hand("nn.Conv2d(2, 3, 3, padding=1)")
    assert fuzzing.judge(network).kind == "right"
    right = fuzzing.measured

    def answers(change, exact=True):
        def changed(network, net, positions):
            found, grid = right(network, net, positions)
            return [(change(mask), exact) for mask, _ in found], grid

        return changed

    everything, nothing = torch.ones_like, torch.zeros_like
    for change, exact, kind in [(everything, True, "wrong"), (everything, False, "bound"), (nothing, False, "wrong")]:
        monkeypatch.setattr(fuzzing, "measured", answers(change, exact))
        assert fuzzing.judge(network).kind == kind

    def harmful(network, net, choose):
        nn.init.zeros_(net[0].bias)
        return right(network, net, choose)

    monkeypatch.setattr(fuzzing, "measured", harmful)
    assert fuzzing.judge(network).why == "the state of the model changed"


def test_a_failure_shrinks_to_what_fails(monkeypatch):
    right = fuzzing.measured

    def measured(network, net, choose):
        found, grid = right(network, net, choose)
        flipped = any("flip" in text for text in network.texts)
        return [(mask if not flipped else ~mask, exact) for mask, exact in found], grid

    monkeypatch.setattr(fuzzing, "measured", measured)
    texts = ["nn.ReLU()", "Fn(lambda x: x.flip(2))", "nn.Conv2d(2, 2, 3, padding=1)"]
    network = fuzzing.Network(texts, (2, 6, 7), "map", (6, 7))
    assert fuzzing.shrink(network).texts == texts[1:2]
