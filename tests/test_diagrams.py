"""Figures of chapters 1–3: they draw, their bytes are stable, and what they show is what the modules are."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ctxnet.paper import figures
from ctxnet.paper.figures import style
from ctxnet.paper.schematics import architectures, introduction, method
from ctxnet.paper.schematics.shapes import Drawing

NEEDS_A_LARGE_NETWORK = {"1.2", "1.3"}  # tested below, on small ones


def texts(fig):
    found = [t.get_text() for t in fig.texts]
    for ax in fig.axes:
        found += [t.get_text() for t in [*ax.texts, ax.title]]
    return found


def assert_text_inside(fig):
    """No label leaves the page."""
    fig.canvas.draw()
    page = fig.bbox
    for ax in fig.axes:
        for text in ax.texts:
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1, (
                text.get_text()
            )


CHAPTERS_1_TO_3 = [number for number in figures.known_figures() if number[0] in "123"]


@pytest.mark.parametrize("number", sorted(set(CHAPTERS_1_TO_3) - NEEDS_A_LARGE_NETWORK))
def test_figure_draws_and_is_stable(number):
    fig = figures.show(number)
    svg = fig.svg()
    assert svg == figures.show(number).svg() and b"<dc:date>" not in svg and fig.facts["number"] == number
    if isinstance(fig, Figure):
        assert_text_inside(fig)
        picture = Image.open(io.BytesIO(fig.png()))
        assert (picture.format, picture.mode) == ("PNG", "P")  # few colours: half the bytes
    else:  # an SVG with values filled in
        ElementTree.fromstring(svg)
        assert b"$" not in svg


def test_drawings_say_what_the_modules_are():
    said = {number: figures.show(number).svg().decode() for number in ("2.2", "2.3", "2.7", "2.8")}
    assert ">256 channels<" in said["2.2"] and ">56×56<" in said["2.2"] and ">3×3<" in said["2.2"]
    assert "encoder: 12 blocks on 197×768" in said["2.3"] and "768 → 3072 → 768" in said["2.3"]
    assert ">144×7×7<" in said["2.7"] and ">4 modules<" in said["2.7"] and ">2 times 3×3, stride 2<" in said["2.8"]
    with pytest.raises(KeyError):
        Drawing("figure_2_2", wide=256)


def test_style_leaves_the_callers_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.show("1.1")
    assert dict(matplotlib.rcParams) == before


def test_root_is_found_from_below_and_missed_outside(tmp_path):
    (tmp_path / "params.yaml").touch()
    (tmp_path / "notebooks/runs").mkdir(parents=True)
    assert style.find_root(tmp_path / "notebooks/runs") == tmp_path.resolve()
    with pytest.raises(FileNotFoundError, match="params.yaml"):
        style.find_root("/")


def test_growth_of_receptive_fields():
    assert [len(f) for f in introduction.stacked_fields()] == [1, 9, 25]
    with torch.device("meta"):
        sizes = introduction.field_sizes(introduction.ResNet(50))
    assert list(sizes) == [f"layer{s + 1}.{i}" for s, n in enumerate((3, 4, 6, 3)) for i in range(n)]
    assert list(sizes.values()) == [19, 27, 35, 43, 59, 75, 91, 107, 139, 171, 203, 235, 267, 299, 363, 427]


def small_vit():
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64)


def test_attention_distance_against_a_slow_loop():
    vit = small_vit()
    for block in vit.blocks:  # sharper attention than at initialisation, so that heads differ
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.1)
    images = introduction.noise_images(2, 64)
    found = introduction.attention_distance(vit, images)
    tokens = vit._pos_embed(vit.patch_embed(images))
    with torch.no_grad():
        q, k, _ = (
            vit.blocks[0].attn.qkv(vit.blocks[0].norm1(tokens)).view(2, 17, 3, 3, 64).permute(2, 0, 3, 1, 4)
        )
        weights = (q @ k.transpose(2, 3) / 8).softmax(-1).numpy()
    distances = []
    for image in range(2):
        for p in range(16):
            row = weights[image, 1, p + 1, 1:]
            far = [16 * np.hypot(p // 4 - o // 4, p % 4 - o % 4) for o in range(16)]
            distances.append(np.dot(row, far) / row.sum())
    assert found.shape == (2, 3)
    assert found[0, 1] == pytest.approx(np.mean(distances), rel=1e-4)


def test_uniform_distance():
    assert introduction.uniform_distance(grid=2, patch=1) == pytest.approx((1 + 1 + 2**0.5) / 4)
    assert introduction.uniform_distance() == pytest.approx(116.49, abs=0.01)


def test_figure_1_2_with_a_given_transformer():
    vit, images = small_vit(), introduction.noise_images(1, 64)
    fig = introduction.figure_1_2(vit, images)
    assert "a) vision transformer, given weights" in texts(fig)
    assert style.figure_bytes(fig) == style.figure_bytes(introduction.figure_1_2(vit, images))


def test_figure_1_3_reads_the_record(tmp_path):
    from ctxnet.measure import ContextProfile
    from ctxnet.records import encode_profile, write_record

    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[:, 67:158, 67:158] = True
    erf = mask.float() / mask.sum()
    profile = ContextProfile(
        ["layer2.3"], torch.tensor([[112.0, 112.0]]), mask, erf, torch.tensor([35.0]), [True]
    )
    (missing,) = introduction.figure_1_3(root=tmp_path).axes
    assert any("measure --variant resnet50" in text.get_text() for text in missing.texts)
    folder = tmp_path / "results/measure/resnet50"
    write_record(folder, {"variant": "resnet50"}, {"context.npz": encode_profile(profile)}, {})
    fig = introduction.figure_1_3(root=tmp_path)
    assert "receptive field: 91 px" in texts(fig)
    assert_text_inside(fig)


def test_table_of_resnets():
    table = {row["depth"]: row for row in architectures.resnet_table()}
    assert list(table) == [18, 34, 50, 101, 152]
    assert all(row["sizes"] == [112, 56, 28, 14, 7] for row in table.values())
    assert table[18]["blocks"] == [([(3, c), (3, c)], 2) for c in (64, 128, 256, 512)]
    assert table[50]["blocks"] == [
        ([(1, c), (3, c), (1, 4 * c)], n) for c, n in ((64, 3), (128, 4), (256, 6), (512, 3))
    ]
    # multiply-adds as torchvision states them for its ResNets; parameters with the 1000-way classifier
    assert [round(row["mult_adds"] / 1e9, 3) for row in table.values()] == [
        1.814,
        3.664,
        4.089,
        7.801,
        11.514,
    ]
    assert table[50]["parameters"] == 25_557_032


def test_attention_shapes_are_the_modules():
    shapes = architectures.attention_shapes()
    assert shapes == {"tokens": 197, "dim": 768, "heads": 12, "head_dim": 64, "projection": (768, 2304)}


def test_similarity_of_encodings_depends_on_the_distance_only():
    encoding = architectures.sinusoidal_encoding(6, 32)
    similarity = (encoding @ encoding.T).reshape(6, 6, 6, 6)
    assert similarity[0, 0, 2, 3] == pytest.approx(similarity[3, 1, 5, 4])
    assert np.allclose(np.diag(encoding @ encoding.T), 16)


def test_exchange_of_resolutions():
    paths = architectures.exchange("stage4")
    for source in range(4):
        for target in range(4):
            if source < target:
                assert paths[source, target] == ["3×3, stride 2"] * (target - source)
            elif source > target:
                assert paths[source, target] == ["1×1", f"enlarge ×{2 ** (source - target)}"]
            else:
                assert paths[source, target] == []


def test_sparse_connections_follow_the_blocks_own_indices():
    from ctxnet.blocks import SpatialPermutation

    upper, lower = method.sparse_connections(k=3, height=4, width=6)
    assert (len(upper), len(lower)) == (3, 12)
    first, second = (SpatialPermutation(1, k=3, layer=f"layer1.{i}") for i in (0, 1))
    start = upper[0][0]
    seen = {start} | {q for _, q in upper}
    assert method.sources(second, 4, 6, divmod(start, 6)) == {divmod(p, 6) for p in seen}
    below = set().union(*(method.sources(first, 4, 6, divmod(p, 6)) for p in seen))
    assert below == {divmod(q, 6) for q in seen | {q for _, q in lower}}


def test_what_lies_between_the_sliders_is_drawn_on_the_spot():
    from ctxnet.paper import sliders

    assert "radius" in sliders.draw_stack(2, 3).facts["alt"]
    assert sliders.draw_context("dilated 3×3 (§3.4)", d=5, block="layer1.1").png()[:4] == b"\x89PNG"
