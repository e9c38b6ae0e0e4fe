"""Figures 2.1–2.8: what the compared architectures look like, with the numbers of the real modules.

Every shape, kernel and count in these drawings is read off a network with hooks; nothing is typed in twice.
"""

import functools

import numpy as np
import torch
from torch import nn

from ctxnet.atlas import multiply_adds
from ctxnet.atlas.small import trace_shapes
from ctxnet.blocks.encoding import relative_encoding
from ctxnet.models.resnet import STAGES, ResNet
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import VERMILION, new_figure
from ctxnet.paper.schematics.shapes import Drawing

INPUT = (3, 224, 224)


def _meta(make, *args, **kwargs):
    """Build a network without memory or arithmetic: only shapes matter here."""
    with torch.device("meta"):
        return make(*args, **kwargs)


@functools.cache
def _timm_meta(name):
    import timm

    return _meta(timm.create_model, name, pretrained=False)


@functools.cache
def _timm_shapes(name):
    return trace_shapes(_timm_meta(name))


def _times(shape):
    return "×".join(str(n) for n in shape)


@functools.cache
def resnet_table():
    """The family of residual networks, read off the networks themselves.

    Returns:
        a tuple of dicts, one per depth: ``depth``, ``stem``, ``sizes`` (side of the map after conv1 and in
        the four stages), ``blocks`` (list of four: kernels and channels of one block, how many),
        ``mult_adds`` (multiply-adds of one image) and ``parameters`` (classifier included).
    """
    rows = []
    for depth in STAGES:
        model = _meta(ResNet, depth, num_classes=1000).eval()
        shapes = trace_shapes(model, INPUT)
        blocks = []
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            convs = [m for n, m in stage[-1].named_children() if isinstance(m, nn.Conv2d)]
            blocks.append(([(c.kernel_size[0], c.out_channels) for c in convs], len(stage)))
        rows.append({
            "depth": depth, "blocks": blocks,
            "stem": (model.conv1.kernel_size[0], model.conv1.out_channels, model.conv1.stride[0]),
            "sizes": [shapes[n][1][-1] for n in ("conv1", "layer1", "layer2", "layer3", "layer4")],
            "mult_adds": multiply_adds(model, torch.zeros(1, *INPUT, device="meta")),
            "parameters": sum(p.numel() for p in model.parameters()),
        })  # fmt: skip
    return tuple(rows)


@figure(
    "2.1", networks="ResNet-18/34/50/101/152, 1000 classes",
    caption="Configurations of the residual networks at 224 px, read off the models: output sizes, blocks, "
    "parameters with the 1000-way classifier, and multiply-adds of one image.",
    alt="A table with one column per network, ResNet-18, 34, 50, 101 and 152; ResNet-50 is highlighted.",
)  # fmt: skip
def figure_2_1():
    rows = resnet_table()
    kernel, channels, stride = rows[0]["stem"]
    values = {"stem": f"{kernel}×{kernel}, {channels}, stride {stride}"}
    values |= {f"size_{stage}": f"{side}×{side}" for stage, side in enumerate(rows[0]["sizes"])}
    for row in rows:
        depth = row["depth"]
        values[f"params_{depth}"] = f"{row['parameters'] / 1e6:.1f}"
        values[f"flops_{depth}"] = f"{row['mult_adds'] / 1e9:.1f}"
        for stage, (convolutions, count) in enumerate(row["blocks"], start=1):
            values[f"count_{depth}_{stage}"] = count
            for place, (kernel, channels) in enumerate(convolutions):
                values[f"conv_{depth}_{stage}_{place}"] = f"{kernel}×{kernel}, {channels}"
    return Drawing("figure_2_1", **values)


@figure(
    "2.2", networks="ResNet-50",
    caption="Bottleneck block, with the shapes of the second block of layer 1: 1×1 to a quarter of the channels, 3×3, "
    "1×1 back, plus the input. The dashed slot is where the blocks of chapter 3 go.",
    alt="From left to right a deep box, two shallow boxes and a deep box with convolutions between them; a line leads "
    "from the input over all of them to a plus sign at the end.",
)  # fmt: skip
def figure_2_2():
    model = _meta(ResNet, 50)
    block, shapes = model.layer1[1], trace_shapes(model)
    (wide, side, _), (narrow, *_) = shapes["layer1.1.conv1"]
    kernels = {f"k{i}": _times(getattr(block, f"conv{i}").kernel_size) for i in (1, 2, 3)}
    return Drawing("figure_2_2", wide=wide, narrow=narrow, side=side, **kernels)


@figure(
    "2.3", networks="ViT-B/16",
    caption="Vision transformer with the shapes of ViT-B/16: 14×14 patches of 16×16 pixels, a class token, learned "
    "position encodings, 12 encoder blocks.",
    alt="Left: an image cut into patches that become a row of tokens which enter the encoder. Right: one encoder "
    "block with attention, a multilayer perceptron and two shortcuts.",
)  # fmt: skip
def figure_2_3():
    vit, s = _timm_meta("vit_base_patch16_224"), attention_shapes()
    patch, hidden = vit.patch_embed.patch_size, vit.blocks[0].mlp.fc1.out_features
    return Drawing(
        "figure_2_3", **s, image=_times(INPUT[1:]), grid=_times(vit.patch_embed.grid_size), patch=_times(patch),
        flat=3 * patch[0] * patch[1], depth=len(vit.blocks), hidden=hidden, last=s["tokens"] - 1,
    )  # fmt: skip


def attention_shapes():
    """Tokens, width, heads and width per head of one attention layer of ViT-B/16, read off the module."""
    attn = _timm_meta("vit_base_patch16_224").blocks[0].attn
    tokens, dim = _timm_shapes("vit_base_patch16_224")["blocks.0.attn"][0]
    about = {"tokens": tokens, "dim": dim, "heads": attn.num_heads, "head_dim": attn.head_dim}
    return about | {"projection": tuple(attn.qkv.weight.T.shape)}


@figure(
    "2.4", networks="ViT-B/16",
    caption="Multi-head self-attention with the shapes of ViT-B/16, and what one head computes.",
    alt="Left: three linear maps feed twelve attention heads whose outputs are concatenated and mapped once more. "
    "Right: Q times K transposed, divided by 8, softmax, times V.",
)  # fmt: skip
def figure_2_4():
    s = attention_shapes()
    return Drawing("figure_2_4", **s, root=f"{s['head_dim'] ** 0.5:.3g}")


@figure(
    "2.5", networks="ViT-B/16",
    caption="The learned linear map from the tokens z to the queries Q, keys K and values V of all heads, drawn to "
    "scale.",
    alt="A low matrix z times a wide matrix of three parts equals three low matrices; one row is marked in each.",
)  # fmt: skip
def figure_2_5():
    s = attention_shapes()
    return Drawing("figure_2_5", **s, projected=s["projection"][1])


def sinusoidal_encoding(side=14, dim=768):
    """2-D sinusoidal encoding of the positions of a map (equations 4–7): array (side·side, dim)."""
    rows, columns = np.divmod(np.arange(side * side), side)
    return relative_encoding(np.stack([rows, columns]), dim)


@figure(
    "2.6", networks="2-D sinusoidal encoding",
    caption="Cosine similarity of the encoding of one patch with those of all others, for the 2-D sinusoidal encoding "
    "of equations (4)–(7) with 768 channels on 14×14 patches. (Learned encodings need a pretrained transformer.)",
    alt="A mosaic of small maps, each brightest at its own patch and along that patch's row and column, and one "
    "enlarged.",
)  # fmt: skip
def figure_2_6(side=14, dim=768):
    encoding = sinusoidal_encoding(side, dim)
    unit = encoding / np.linalg.norm(encoding, axis=1, keepdims=True)
    similarity = (unit @ unit.T).reshape(side, side, side, side).round(3)  # as far as processors agree
    shown, step = np.arange(0, side, 2), side + 2
    mosaic = np.full((step * len(shown) - 2,) * 2, np.nan)
    for i, r in enumerate(shown):
        for j, c in enumerate(shown):
            mosaic[i * step : i * step + side, j * step : j * step + side] = similarity[r, c]
    fig = new_figure(height=3.1)
    tiles, ax = fig.subplots(1, 2, width_ratios=[1, 1])
    tiles.imshow(mosaic, cmap="viridis", vmin=similarity.min(), vmax=1)
    ticks = np.arange(len(shown)) * step + side / 2
    tiles.set(title="every second patch against all others", xlabel="column of the patch", ylabel="row of the patch")
    tiles.set_xticks(ticks, shown)
    tiles.set_yticks(ticks, shown)
    tiles.tick_params(length=0)
    tiles.grid(False)
    tiles.spines[:].set_visible(False)
    middle = side // 2
    image = ax.imshow(similarity[middle, middle], cmap="viridis", vmin=similarity.min(), vmax=1)
    ax.plot(middle, middle, "o", color=VERMILION, ms=5)
    ax.set(title=f"patch ({middle}, {middle})", xlabel="column", ylabel="row")
    ax.set(xticks=range(0, side, 3), yticks=range(0, side, 3))
    ax.grid(False)
    fig.colorbar(image, ax=ax, shrink=0.86, label="cosine similarity")
    return fig


@figure(
    "2.7", networks="HRNet-W18",
    caption="HRNet-W18: every stage keeps the resolutions it has and adds one of half the size, which starts from the "
    "lowest; after every module each resolution is fed by all others.",
    alt="Four stages from left to right with one, two, three and four rows of maps, joined by level, falling and "
    "rising arrows.",
)  # fmt: skip
def figure_2_7():
    model, shapes = _timm_meta("hrnet_w18"), _timm_shapes("hrnet_w18")
    outputs = [shapes["layer1"][1]] + [shape for i in (2, 3, 4) for shape in shapes[f"stage{i}"][1]]
    modules = [len(getattr(model, name)) for name in ("layer1", "stage2", "stage3", "stage4")]
    kinds = ["bottlenecks"] + ["module" + "s" * (count > 1) for count in modules[1:]]
    stages = {f"stage{i}": f"{count} {kind}" for i, (count, kind) in enumerate(zip(modules, kinds, strict=True))}
    named = {f"shape{i}": _times(shape) for i, shape in enumerate(outputs)}
    return Drawing("figure_2_7", image=_times(INPUT[1:]), **stages, **named)


def exchange(stage="stage3"):
    """How each resolution reaches each other one in an HRNet stage, read off its fusion layers.

    Returns:
        {(source, target): list of steps such as "3×3, stride 2" or "enlarge ×2"}; [] for the same resolution.
    """
    words = {}
    fuse = getattr(_timm_meta("hrnet_w18"), stage)[0].fuse_layers
    for target, row in enumerate(fuse):
        for source, path in enumerate(row):
            steps = []
            for module in path.modules():
                if isinstance(module, nn.Conv2d):
                    k, stride = module.kernel_size[0], module.stride[0]
                    steps.append(f"{k}×{k}" + (f", stride {stride}" if stride > 1 else ""))
                elif isinstance(module, nn.Upsample):
                    steps.append(f"enlarge ×{module.scale_factor:.0f}")
            words[source, target] = steps
    return words


@figure(
    "2.8", networks="HRNet-W18",
    caption="How resolutions meet at the end of stage 3 of HRNet-W18: down by 3×3 convolutions of stride 2, up by a "
    "1×1 convolution and enlargement. The thesis says bilinear; the implementation measured here repeats the nearest "
    "value.",
    alt="Three panels, one per target resolution; in each, three inputs are brought to one size and added.",
)  # fmt: skip
def figure_2_8():
    shapes, paths = _timm_shapes("hrnet_w18")["stage3"][1], exchange()
    values = {f"to{i}": _times(shape[1:]) for i, shape in enumerate(shapes)}
    values |= {f"sum{i}": _times(shape) for i, shape in enumerate(shapes)}
    ways = [paths[source, target] for target in range(3) for source in range(3) if source != target]
    for i, way in enumerate(ways):
        same = len(set(way)) == 1 and len(way) > 1
        values[f"path{i}"] = f"{len(way)} times {way[0]}" if same else " · ".join(way)
    return Drawing("figure_2_8", **values)
