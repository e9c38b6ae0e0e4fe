"""The pictures of profiles: what they show, checked on the artists."""

import matplotlib
import numpy as np
import pytest
import torch

from ctxnet.measure import ContextProfile
from ctxnet.paper.figures.plots import plot_context, plot_summed


def profile(layers=3, size=32, distance=(2.0, 5.0, 9.0)):
    at = torch.arange(size) - 14.0
    apart = torch.hypot(at[:, None], at)
    erf = torch.stack([torch.exp(-apart / d) * (apart < 12) for d in distance])
    return ContextProfile(
        layers=[f"layer{i + 1}.0" for i in range(layers)],
        center=torch.full((layers, 2), 14.0, dtype=torch.float64),
        rf=(apart < 12).expand(layers, -1, -1),
        erf=erf / erf.sum((1, 2), keepdim=True),
        distance=torch.tensor(distance, dtype=torch.float64),
        exact=[True] * layers,
    )


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_context_shows_field_effect_centre_and_distance(scale):
    data = profile()
    ax = plot_context(data, "layer2.0", scale=scale, colorbar=True)
    shown = ax.images[0].get_array()
    assert np.array_equal(shown.mask, ~data.rf[1].numpy())
    assert shown.max() == 1 and ax.images[0].cmap(shown)[..., 3].min() == 0  # outside: transparent on white
    assert {patch.radius for patch in ax.patches} == {5.0} and ax.patches[0].center == (14, 14)
    assert ax.lines[0].get_xydata().tolist() == [[14, 14]]
    ax.figure.canvas.draw()


def test_a_circle_that_leaves_the_image_adds_nothing_to_it():
    ax = plot_context(profile(distance=(1.0, 2.0, 200.0)), 2)
    height, width = ax.images[0].get_array().shape
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, width - 0.5), (height - 0.5, -0.5))


def test_context_by_number_and_field_alone():
    fig = matplotlib.figure.Figure()
    ax = fig.subplots()
    assert plot_context(profile(), -1, ax=ax, erf=False) is ax
    assert not ax.patches and len(np.unique(ax.images[0].get_array().compressed())) == 1
    empty = profile(distance=(1.0, 2.0, float("nan")))
    empty.erf[2] = 0
    assert not plot_context(empty, 2).patches


def test_summed():
    field = torch.rand(8, 8)
    shown = plot_summed(field / field.sum()).images[0].get_array()
    np.testing.assert_allclose(shown, (field / field.max()).numpy(), rtol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="unknown layer 'layer9.0'; did you mean 'layer"):
        plot_context(profile(), "layer9.0")
    with pytest.raises(ValueError, match="layer 3 of a profile of 3"):
        plot_context(profile(), 3)
    with pytest.raises(ValueError, match="unknown scale 'logarithmic'"):
        plot_context(profile(), 0, scale="logarithmic")
