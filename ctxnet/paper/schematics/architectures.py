"""Figures 2.1–2.8: what the compared architectures look like, with the numbers of the real modules.

Every shape, kernel and count in these drawings is read off a network with hooks; nothing is typed in twice.
"""

import functools

import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import nn

from ctxnet.blocks.encoding import relative_encoding
from ctxnet.models.resnet import STAGES, Bottleneck, ResNet
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, new_figure
from ctxnet.paper.schematics.shapes import arrow, box, canvas, cuboid, label, plus, shade

INPUT = (3, 224, 224)


def trace_shapes(model, input_shape=INPUT):
    """Shapes without the batch axis at every module: ``{name: (input, output)}``; lists stay lists.

    The model runs once in eval mode on one zero image; on the meta device that costs nothing.
    """
    shapes, device = {}, next(model.parameters()).device

    def shape(value):
        return tuple(value.shape[1:]) if torch.is_tensor(value) else [shape(v) for v in value]

    def record(name):
        def hook(module, inputs, output):
            shapes[name] = (shape(inputs[0]) if inputs else None, shape(output))

        return hook

    hooks = [m.register_forward_hook(record(n)) for n, m in model.named_modules()]
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return shapes


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


# ---------------------------------------------------------------- 2.1


@functools.cache
def resnet_table(input_shape=INPUT, num_classes=1000):
    """The family of residual networks, measured on the networks themselves.

    Returns:
        a tuple of dicts, one per depth: ``depth``, ``stem``, ``sizes`` (side of the map after conv1 and in
        the four stages), ``blocks`` (list of four: kernels and channels of one block, how many),
        ``mult_adds`` (multiply-adds of one image) and ``parameters`` (classifier included).
    """
    from torch.utils.flop_counter import FlopCounterMode

    rows = []
    for depth in STAGES:
        model = _meta(ResNet, depth, num_classes=num_classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, *input_shape, device="meta"))
        shapes = trace_shapes(model, input_shape)
        blocks = []
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            convs = [m for n, m in stage[-1].named_children() if isinstance(m, nn.Conv2d)]
            blocks.append(([(c.kernel_size[0], c.out_channels) for c in convs], len(stage)))
        names = ("conv1", "layer1", "layer2", "layer3", "layer4")
        rows.append(
            {
                "depth": depth,
                "stem": (model.conv1.kernel_size[0], model.conv1.out_channels, model.conv1.stride[0]),
                "sizes": [shapes[n][1][-1] for n in names],
                "blocks": blocks,
                "mult_adds": counter.get_total_flops() // 2,
                "parameters": sum(p.numel() for p in model.parameters()),
            }
        )
    return tuple(rows)





@figure(
    "2.1", networks="ResNet-18/34/50/101/152, 1000 classes",
    caption="Configurations of the residual networks at 224 px, measured on the models: output sizes, blocks, "
    "parameters with the 1000-way classifier, and multiply-adds of one image.",
    alt="A table with one column per network, ResNet-18, 34, 50, 101 and 152; ResNet-50 is highlighted.",
)  # fmt: skip
def figure_2_1():
    """Configurations of the residual networks, as a table computed from the models."""
    rows = resnet_table()
    fig, ax = canvas(3.8)
    left, widths = 0.07, [0.7, 0.78] + [1.05] * 5
    edges = np.concatenate([[left], left + np.cumsum(widths)])
    middles = (edges[:-1] + edges[1:]) / 2
    heights = [0.3, 0.26, 0.26] + [0.52] * 4 + [0.26, 0.24, 0.24]
    tops = 3.72 - np.concatenate([[0], np.cumsum(heights)])
    centres = (tops[:-1] + tops[1:]) / 2
    for y in tops[[0, -1]]:
        ax.plot(edges[[0, -1]], [y, y], color=INK, lw=1.2)
    for y in tops[1:-1]:
        ax.plot(edges[[0, -1]], [y, y], color="#C9CED6", lw=0.6)
    ax.plot(edges[[0, -1]], [tops[1]] * 2, color=INK, lw=0.8)
    ax.fill_between(edges[[4, 5]], tops[-1], tops[0], color=shade(BLUE, 0.9), zorder=0, lw=0)

    def row(index, *cells, **kwargs):
        for x, text in zip(middles, cells, strict=False):
            label(ax, x, centres[index], text, size=7.5, **kwargs)

    row(0, "layers", "output", *(f"ResNet-{r['depth']}" for r in rows), weight="bold")
    kernel, channels, stride = rows[0]["stem"]
    first, *sizes = rows[0]["sizes"]
    row(1, "conv1", f"{first}×{first}")
    label(ax, edges[2:].mean(), centres[1], f"{kernel}×{kernel}, {channels}, stride {stride}", size=7.5)
    row(2, "", "")
    label(ax, edges[2:].mean(), centres[2], "3×3 max pool, stride 2", size=7.5)
    for stage, size in enumerate(sizes):
        row(3 + stage, f"layer{stage + 1}", f"{size}×{size}")
        for x, entry in zip(middles[2:], rows, strict=True):
            convs, count = entry["blocks"][stage]
            lines = "\n".join(f"{k}×{k}, {c}" for k, c in convs)
            half = 0.075 * len(convs)
            y = centres[3 + stage]
            label(ax, x - 0.16, y, lines, size=7, linespacing=1.15)
            for side in (-1, 1):  # square brackets around the block
                edge = x - 0.16 + side * 0.335
                ax.plot(
                    [edge - side * 0.05, edge, edge, edge - side * 0.05],
                    [y - half, y - half, y + half, y + half],
                    color=INK,
                    lw=0.7,
                )
            label(ax, x + 0.21, y, f"× {count}", size=7.5, ha="left")
    row(7, "", "1×1")
    label(ax, edges[2:].mean(), centres[7], "average pool, 1000-way linear layer, softmax", size=7.5)
    row(8, "params", "$10^6$", *(f"{r['parameters'] / 1e6:.1f}" for r in rows))
    row(9, "FLOPs", "$10^9$", *(f"{r['mult_adds'] / 1e9:.1f}" for r in rows))
    return fig


# ---------------------------------------------------------------- 2.2


@figure(
    "2.2", networks="ResNet-50",
    caption="Bottleneck block, with the shapes of the second block of layer 1: 1×1 to a quarter of the channels, 3×3, "
    "1×1 back, plus the input. The dashed slot is where the blocks of chapter 3 go.",
    alt="From left to right a deep box, two shallow boxes and a deep box with convolutions between them; a line leads "
    "from the input over all of them to a plus sign at the end.",
)  # fmt: skip
def figure_2_2():
    """A bottleneck block, drawn from the shapes at the second block of layer 1."""
    model = _meta(ResNet, 50)
    block, name = model.layer1[1], "layer1.1"
    assert isinstance(block, Bottleneck)
    shapes = trace_shapes(model)
    fig, ax = canvas(2.35)
    size, y = 0.58, 0.62
    depth = {64: 0.2, 256: 0.6}
    centre = y + size / 2 + 0.05

    def tensor(x, shape, colour):
        channels, height, _ = shape
        right, _ = cuboid(ax, x, y, size, size, depth[channels], colour=colour)
        label(ax, x + size / 2, y - 0.13, f"{channels} channels", size=7.5)
        label(ax, x + size / 2, y - 0.28, f"{height}×{height}", size=7.5, color=GREY)
        return right

    steps = [("conv1", "bn1", True), ("conv2", "bn2", True), ("conv3", "bn3", False)]
    right = tensor(0.14, shapes[f"{name}.conv1"][0], GREY)
    start, x = right, right
    for conv, _, relu in steps:
        module = getattr(block, conv)
        k = module.kernel_size[0]
        colour = VERMILION if k > 1 else BLUE
        if conv == "conv3":
            slot, x = x + 0.19, x + 0.22
            arrow(ax, (x - 0.2, centre), (x + 0.16, centre), head=False)
        arrow(ax, (x + 0.05, centre), (x + 0.16, centre), head=False)
        text = f"{k}×{k}\nconv" + ("\nBN\nReLU" if relu else "\nBN")
        box(ax, x + 0.37, centre, 0.42, 0.72, text, colour=colour, size=7.5)
        arrow(ax, (x + 0.58, centre), (x + 0.72, centre))
        x = tensor(x + 0.75, shapes[f"{name}.{conv}"][1], colour)
    join = x + 0.24
    arrow(ax, (x + 0.05, centre), (join - 0.11, centre))
    plus(ax, join, centre)
    top = 1.98
    arrow(
        ax,
        (start + 0.06, centre),
        (start + 0.06, top),
        (join, top),
        (join, centre + 0.11),
        colour=GREEN,
        width=1.3,
    )
    label(ax, (start + join) / 2, top + 0.14, "shortcut: the input itself", color=shade(GREEN, -0.3))
    arrow(ax, (join + 0.11, centre), (join + 0.24, centre), head=False)
    label(ax, join + 0.2, centre + 0.16, "ReLU", size=7.5, ha="left")
    arrow(ax, (join + 0.11, centre), (join + 0.5, centre))
    box(ax, slot, centre, 0.12, 0.5, colour=PURPLE, dashed=True)
    arrow(ax, (slot, 0.2), (slot, centre - 0.27), colour=PURPLE, dashed=True)
    label(ax, slot, 0.1, "context slot (chapter 3)", color=shade(PURPLE, -0.25), size=7.5)
    return fig


# ---------------------------------------------------------------- 2.3


@figure(
    "2.3", networks="ViT-B/16",
    caption="Vision transformer with the shapes of ViT-B/16: 14×14 patches of 16×16 pixels, a class token, learned "
    "position encodings, 12 encoder blocks.",
    alt="Left: an image cut into patches that become a row of tokens which enter the encoder. Right: one encoder "
    "block with attention, a multilayer perceptron and two shortcuts.",
)  # fmt: skip
def figure_2_3():
    """The vision transformer with the shapes of ViT-B/16."""
    vit = _timm_meta("vit_base_patch16_224")
    shapes = _timm_shapes("vit_base_patch16_224")
    patch, grid = vit.patch_embed.patch_size[0], vit.patch_embed.grid_size[0]
    tokens, dim = shapes["blocks.0"][0]
    hidden, depth, heads = vit.blocks[0].mlp.fc1.out_features, len(vit.blocks), vit.blocks[0].attn.num_heads
    fig, ax = canvas(3.8)

    # the image, cut into patches; only three by three of them are drawn
    x0, y0, side = 0.3, 0.42, 0.27
    colours = [shade(BLUE, 0.25 + 0.06 * i) for i in range(9)]
    for i in range(9):
        corner = (x0 + (i % 3) * (side + 0.05), y0 + (2 - i // 3) * (side + 0.05))
        ax.add_patch(Rectangle(corner, side, side, facecolor=colours[i], edgecolor="white"))
    label(
        ax,
        x0 + 0.46,
        y0 - 0.2,
        f"{INPUT[1]}×{INPUT[2]} px image:\n{grid}×{grid} patches of {patch}×{patch}",
        size=7,
    )

    # the sequence
    xs = 1.95 + 0.36 * np.arange(6)
    row, mid = 0.62, (1.95 + xs[-1]) / 2
    for x, colour in zip(xs[1:], colours[:3] + [None, colours[-1]], strict=True):
        if colour is None:
            label(ax, x, row, "…", size=11)
            label(ax, x, row + 0.88, "…", size=11)
            label(ax, x, row + 1.34, "…", size=11)
            continue
        ax.add_patch(Rectangle((x - 0.13, row - 0.13), 0.26, 0.26, facecolor=colour, edgecolor="white"))
        arrow(ax, (x, row + 0.15), (x, row + 0.3))
        arrow(ax, (x, row + 0.54), (x, row + 0.74))
    arrow(ax, (x0 + 1.0, row), (xs[1] - 0.2, row))
    box(
        ax,
        (xs[1] + xs[-1]) / 2,
        row + 0.42,
        xs[-1] - xs[1] + 0.3,
        0.24,
        f"linear projection  {3 * patch * patch} → {dim}",
        colour=BLUE,
        size=7.5,
    )
    for i, x in enumerate(xs):
        if i == 4:
            continue
        text = str(i) if i < 4 else str(tokens - 1)
        colour = VERMILION if i == 0 else BLUE
        box(ax, x, row + 0.88, 0.28, 0.28, "*" if i == 0 else "", colour=colour, size=9)
        label(ax, x, row + 1.105, "+", size=9)
        box(ax, x, row + 1.34, 0.28, 0.28, text, colour=PURPLE, size=6.5)
        arrow(ax, (x, row + 1.49), (x, row + 1.68))
    label(ax, xs[0] - 0.25, row + 0.88, "class token *", size=7, ha="right", color=shade(VERMILION, -0.2))
    label(
        ax,
        xs[0] - 0.25,
        row + 1.34,
        "position encoding\n(learned)",
        size=7,
        ha="right",
        color=shade(PURPLE, -0.25),
    )
    encoder_y = row + 1.88
    box(
        ax,
        mid,
        encoder_y,
        xs[-1] - xs[0] + 0.36,
        0.34,
        f"encoder: {depth} blocks on {tokens}×{dim}",
        colour=GREEN,
        size=8,
    )
    arrow(ax, (xs[0], encoder_y + 0.17), (xs[0], encoder_y + 0.37))
    box(ax, xs[0], encoder_y + 0.52, 0.86, 0.28, "linear head", colour=VERMILION, size=7.5)
    arrow(ax, (xs[0], encoder_y + 0.66), (xs[0], encoder_y + 0.86))
    label(ax, xs[0], encoder_y + 0.97, "class scores", size=7.5)

    # one block of the encoder
    bx, left = 5.7, 4.62
    ax.add_patch(
        Rectangle((left, 0.3), 2.15, 3.1, facecolor=shade(GREEN, 0.93), edgecolor=shade(GREEN, 0.3), lw=0.8)
    )
    ax.plot(
        [mid + (xs[-1] - xs[0]) / 2 + 0.18, left],
        [encoder_y + 0.17, 3.4],
        color=shade(GREEN, 0.3),
        lw=0.7,
        ls=":",
    )
    ax.plot(
        [mid + (xs[-1] - xs[0]) / 2 + 0.18, left],
        [encoder_y - 0.17, 0.3],
        color=shade(GREEN, 0.3),
        lw=0.7,
        ls=":",
    )
    label(ax, bx, 3.52, "one encoder block", size=8, weight="bold")
    arrow(ax, (bx, 0.14), (bx, 0.52))
    label(ax, bx + 0.08, 0.14, f" {tokens} tokens of {dim}", size=7, ha="left")
    box(ax, bx, 0.66, 1.25, 0.26, "layer norm", colour=GREY, size=7.5)
    arrow(ax, (bx, 0.79), (bx, 0.95))
    box(
        ax,
        bx,
        1.14,
        1.25,
        0.36,
        f"multi-head attention\n{heads} heads of {dim // heads}",
        colour=ORANGE,
        size=7.5,
    )
    arrow(ax, (bx, 1.32), (bx, 1.52))
    plus(ax, bx, 1.63)
    arrow(ax, (bx, 1.74), (bx, 2.02))
    box(ax, bx, 2.15, 1.25, 0.26, "layer norm", colour=GREY, size=7.5)
    arrow(ax, (bx, 2.28), (bx, 2.42))
    box(ax, bx, 2.61, 1.25, 0.36, f"MLP with GELU\n{dim} → {hidden} → {dim}", colour=SKY, size=7.5)
    arrow(ax, (bx, 2.79), (bx, 2.96))
    plus(ax, bx, 3.07)
    arrow(ax, (bx, 3.18), (bx, 3.4))
    for low, high in ((0.42, 1.63), (1.86, 3.07)):
        arrow(ax, (bx, low), (bx - 0.85, low), (bx - 0.85, high), (bx - 0.11, high), colour=GREEN, width=1.2)
    return fig


# ---------------------------------------------------------------- 2.4


def attention_shapes():
    """Tokens, width, heads and width per head of one attention layer of ViT-B/16, read off the module."""
    attn = _timm_meta("vit_base_patch16_224").blocks[0].attn
    tokens, dim = _timm_shapes("vit_base_patch16_224")["blocks.0.attn"][0]
    return {
        "tokens": tokens,
        "dim": dim,
        "heads": attn.num_heads,
        "head_dim": attn.head_dim,
        "projection": tuple(attn.qkv.weight.T.shape),
    }


@figure(
    "2.4", networks="ViT-B/16",
    caption="Multi-head self-attention with the shapes of ViT-B/16, and what one head computes.",
    alt="Left: three linear maps feed twelve attention heads whose outputs are concatenated and mapped once more. "
    "Right: Q times K transposed, divided by 8, softmax, times V.",
)  # fmt: skip
def figure_2_4():
    """Multi-head self-attention: the heads on the left, what one head does on the right."""
    s = attention_shapes()
    n, d, h, k = s["tokens"], s["dim"], s["heads"], s["head_dim"]
    fig, ax = canvas(3.55)

    # left: the layer
    xs = (0.75, 1.85, 2.95)
    for x, name in zip(xs, "QKV", strict=True):
        label(ax, x, 0.2, f"z  ({n}×{d})", size=7.5)
        arrow(ax, (x, 0.3), (x, 0.5))
        for i in (2, 1, 0):
            box(ax, x + 0.07 * i, 0.66 + 0.07 * i, 0.8, 0.3, "linear" if i == 0 else "", colour=BLUE)
        arrow(ax, (x + 0.07, 0.96), (x + 0.07, 1.32))
        label(ax, x + 0.15, 1.13, f"{name}  {n}×{k}", size=7.5, ha="left")
    for i in (2, 1, 0):
        box(
            ax,
            1.85 + 0.07 * i,
            1.53 + 0.07 * i,
            3.0,
            0.36,
            "scaled dot-product attention" if i == 0 else "",
            colour=ORANGE,
            size=8.5,
        )
    label(ax, 3.62, 1.62, f"{h} heads", size=8, ha="left")
    arrow(ax, (1.85, 1.87), (1.85, 2.15))
    label(ax, 1.93, 2.03, f"{h} × ({n}×{k})", size=7.5, ha="left")
    box(ax, 1.85, 2.29, 3.0, 0.28, "concatenate", colour=GREY, size=8.5)
    arrow(ax, (1.85, 2.43), (1.85, 2.68))
    label(ax, 1.93, 2.55, f"{n}×{d}", size=7.5, ha="left")
    box(ax, 1.85, 2.82, 3.0, 0.28, f"linear  {d} → {d}", colour=BLUE, size=8.5)
    arrow(ax, (1.85, 2.96), (1.85, 3.22))
    label(ax, 1.85, 3.33, f"{n}×{d}", size=7.5)

    # right: one head
    ax.add_patch(
        Rectangle((4.4, 0.12), 2.4, 3.1, facecolor=shade(ORANGE, 0.93), edgecolor=shade(ORANGE, 0.3), lw=0.8)
    )
    label(ax, 5.6, 3.36, "one head", size=8.5, weight="bold")
    q, key, v = 4.85, 5.55, 6.4
    for x, name in ((q, "Q"), (key, "K"), (v, "V")):
        label(ax, x, 0.28, name, size=9)
    pair = (q + key) / 2
    arrow(ax, (q, 0.39), (q, 0.6))
    arrow(ax, (key, 0.39), (key, 0.6))
    box(ax, pair, 0.74, 1.2, 0.28, "$Q K^\\top$", colour=GREY, size=8.5)
    arrow(ax, (pair, 0.88), (pair, 1.1))
    box(ax, pair, 1.24, 1.2, 0.28, f"÷ $\\sqrt{{d_k}}$ = {k**0.5:.3g}", colour=GREY, size=8)
    arrow(ax, (pair, 1.38), (pair, 1.62))
    box(ax, pair, 1.76, 1.2, 0.28, "softmax", colour=ORANGE, size=8.5)
    arrow(ax, (pair, 1.9), (pair, 2.3))
    label(ax, pair + 0.08, 2.07, f"weights {n}×{n}", size=7.5, ha="left")
    arrow(ax, (v, 0.39), (v, 2.3))
    box(ax, 5.6, 2.45, 2.0, 0.3, "weights · V", colour=GREY, size=8.5)
    arrow(ax, (5.6, 2.6), (5.6, 2.9))
    label(ax, 5.6, 3.02, f"{n}×{k}", size=7.5)
    return fig


# ---------------------------------------------------------------- 2.5


@figure(
    "2.5", networks="ViT-B/16",
    caption="The learned linear map from the tokens z to the queries Q, keys K and values V of all heads, drawn to "
    "scale.",
    alt="A low matrix z times a wide matrix of three parts equals three low matrices; one row is marked in each.",
)  # fmt: skip
def figure_2_5():
    """The linear map from the token matrix z to Q, K and V, drawn to scale."""
    s = attention_shapes()
    n, d = s["tokens"], s["dim"]
    fig, ax = canvas(2.0)
    unit = 1.18 / d  # inches per number
    low, middle = 0.4, 0.4 + d * unit / 2

    def matrix(x, rows, columns, colour, name, y=middle):
        w, h = columns * unit, rows * unit
        ax.add_patch(
            Rectangle(
                (x, y - h / 2), w, h, facecolor=shade(colour, 0.6), edgecolor=shade(colour, -0.2), lw=0.9
            )
        )
        label(ax, x + w / 2, y - 0.03, name, size=9)
        return x + w

    def highlight(x, columns, colour, y=middle):
        h = 0.035
        ax.add_patch(
            Rectangle((x, y + n * unit / 2 - 0.08), columns * unit, h, facecolor=colour, lw=0, zorder=3)
        )

    x = matrix(0.2, n, d, GREY, "z")
    highlight(0.2, d, VERMILION)
    label(ax, 0.2 + d * unit / 2, middle - n * unit / 2 - 0.13, f"{n} tokens × {d}", size=7.5)
    label(ax, x + 0.13, middle, "·", size=14)
    start = x + 0.26
    each = d * unit
    for i, (name, colour) in enumerate((("$U_q$", BLUE), ("$U_k$", ORANGE), ("$U_v$", GREEN))):
        left = start + i * each
        ax.add_patch(
            Rectangle(
                (left, low),
                each,
                d * unit,
                facecolor=shade(colour, 0.6),
                edgecolor=shade(colour, -0.2),
                lw=0.9,
            )
        )
        label(ax, left + each / 2, middle, name, size=10)
    rows, columns = s["projection"]
    label(ax, start + 1.5 * each, low - 0.13, f"$U_{{qkv}}$: {rows} × {columns}, learned", size=7.5)
    end = start + 3 * each
    label(ax, end + 0.14, middle, "=", size=12)
    left = end + 0.29
    for i, (name, colour) in enumerate((("Q", BLUE), ("K", ORANGE), ("V", GREEN))):
        y = middle + (1 - i) * (d * unit - n * unit) / 2
        ax.add_patch(
            Rectangle(
                (left, y - n * unit / 2),
                each,
                n * unit,
                facecolor=shade(colour, 0.6),
                edgecolor=shade(colour, -0.2),
                lw=0.9,
            )
        )
        ax.add_patch(
            Rectangle((left, y + n * unit / 2 - 0.08), each, 0.035, facecolor=VERMILION, lw=0, zorder=3)
        )
        label(ax, left + each / 2, y - 0.03, name, size=9)
    label(ax, left + each / 2, low - 0.13, f"{n} × {d} each", size=7.5)
    label(
        ax,
        3.45,
        1.8,
        "to scale; one token (marked row of z) becomes one row of Q, one of K and one of V",
        size=7.5,
        color=shade(VERMILION, -0.2),
    )
    return fig


# ---------------------------------------------------------------- 2.6


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
    """How similar the encoding of each position is to that of every other one."""
    encoding = sinusoidal_encoding(side, dim)
    unit = encoding / np.linalg.norm(encoding, axis=1, keepdims=True)
    similarity = (unit @ unit.T).reshape(side, side, side, side)
    shown, step = np.arange(0, side, 2), side + 2
    mosaic = np.full((step * len(shown) - 2,) * 2, np.nan)
    for i, r in enumerate(shown):
        for j, c in enumerate(shown):
            mosaic[i * step : i * step + side, j * step : j * step + side] = similarity[r, c]
    fig = new_figure(height=3.1)
    tiles, ax = fig.subplots(1, 2, width_ratios=[1, 1])
    tiles.imshow(mosaic, cmap="viridis", vmin=similarity.min(), vmax=1)
    ticks = np.arange(len(shown)) * step + side / 2
    tiles.set(
        title="every second patch against all others", xlabel="column of the patch", ylabel="row of the patch"
    )
    tiles.set_xticks(ticks, shown)
    tiles.set_yticks(ticks, shown)
    tiles.tick_params(length=0)
    tiles.grid(False)
    tiles.spines[:].set_visible(False)
    middle = side // 2
    image = ax.imshow(similarity[middle, middle], cmap="viridis", vmin=similarity.min(), vmax=1)
    ax.plot(middle, middle, "o", color=VERMILION, ms=5)
    ax.set(
        title=f"patch ({middle}, {middle})",
        xlabel="column",
        ylabel="row",
        xticks=range(0, side, 3),
        yticks=range(0, side, 3),
    )
    ax.grid(False)
    fig.colorbar(image, ax=ax, shrink=0.86, label="cosine similarity")
    return fig


# ---------------------------------------------------------------- 2.7


@figure(
    "2.7", networks="HRNet-W18",
    caption="HRNet-W18: every stage keeps the resolutions it has and adds one of half the size, which starts from the "
    "lowest; after every module each resolution is fed by all others.",
    alt="Four stages from left to right with one, two, three and four rows of maps, joined by level, falling and "
    "rising arrows.",
)  # fmt: skip
def figure_2_7():
    """The parallel branches of HRNet-W18, with the shapes at the end of every stage."""
    model = _timm_meta("hrnet_w18")
    shapes = _timm_shapes("hrnet_w18")
    stages = [[shapes["layer1"][1]]] + [shapes[f"stage{i}"][1] for i in (2, 3, 4)]
    modules = [len(model.layer1), len(model.stage2), len(model.stage3), len(model.stage4)]
    fig, ax = canvas(3.5)
    colours = [BLUE, GREEN, ORANGE, PURPLE]
    rows = [2.6, 1.83, 1.13, 0.5]  # height of the branch's line
    sides = [0.52, 0.4, 0.31, 0.24]
    starts = [0.78, 2.1, 3.55, 5.0]

    def maps(x, branch, count):
        """``count`` maps of a branch side by side from x on."""
        for i in range(count):
            side = sides[branch]
            cuboid(
                ax,
                x + i * 0.22,
                rows[branch] - side / 2,
                0.1,
                side,
                0.12 + 0.05 * branch,
                colour=colours[branch],
                zorder=3,
            )

    label(ax, 0.4, rows[0] + 0.18, f"image\n{_times(INPUT[1:])}", size=7)
    arrow(ax, (0.15, rows[0]), (starts[0] - 0.03, rows[0]))
    for stage, (x, outputs) in enumerate(zip(starts, stages, strict=True)):
        label(ax, x + 0.36, 3.33, f"stage {stage + 1}", size=8.5, weight="bold")
        kind = "bottlenecks" if stage == 0 else "module" + "s" * (modules[stage] > 1)
        label(ax, x + 0.36, 3.16, f"{modules[stage]} {kind}", size=7.5, color=GREY)
        for branch, shape in enumerate(outputs):
            maps(x, branch, 3)
            label(ax, x + 0.32, rows[branch] - sides[branch] / 2 - 0.09, _times(shape), size=7)
        if stage < 3:
            following = starts[stage + 1]
            for source in range(len(outputs)):
                for target in range(len(stages[stage + 1])):
                    if target == len(outputs) and source != target - 1:
                        continue  # a new branch starts from the lowest resolution only
                    same = source == target
                    colour = INK if same else (VERMILION if target > source else SKY)
                    begin = (x + 0.72 + 0.04 * source, rows[source])
                    arrow(
                        ax, begin, (following - 0.05, rows[target]), colour=colour, width=1.3 if same else 0.9
                    )
    for branch in range(4):
        arrow(ax, (starts[3] + 0.76, rows[branch]), (6.2, rows[branch]))
    box(ax, 6.5, np.mean(rows), 0.5, rows[0] - rows[3] + 0.4, "fuse,\npool,\nclassify", colour=GREY, size=7.5)
    legend = [("same resolution", INK), ("down: 3×3, stride 2", VERMILION), ("up: 1×1, then enlarge", SKY)]
    for i, (text, colour) in enumerate(legend):
        y = 0.95 - 0.2 * i
        arrow(ax, (0.2, y), (0.48, y), colour=colour, width=1.3)
        label(ax, 0.55, y, text, size=7.5, ha="left")
    return fig


# ---------------------------------------------------------------- 2.8


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
    """What happens on the way between resolutions at the end of stage 3."""
    shapes = _timm_shapes("hrnet_w18")["stage3"][1]
    paths = exchange()
    fig, ax = canvas(2.3)
    colours, sides = [BLUE, GREEN, ORANGE], [0.56, 0.42, 0.3]
    rows = [1.72, 1.08, 0.55]
    for target in range(3):
        left = 0.15 + 2.28 * target
        join = left + 1.55
        label(ax, left + 1.0, 2.19, f"to {shapes[target][1]}×{shapes[target][2]}", size=8.5, weight="bold")
        for source in range(3):
            side, y = sides[source], rows[source]
            right, _ = cuboid(ax, left, y - side / 2, 0.1, side, 0.12 + 0.05 * source, colour=colours[source])
            colour = INK if source == target else (VERMILION if target > source else SKY)
            bend = (join, y)
            if source == target:
                arrow(ax, (right + 0.04, y), (join - 0.11, y), colour=colour)
            else:
                end = rows[target] + (0.11 if source < target else -0.11)
                arrow(ax, (right + 0.04, y), bend, (join, end), colour=colour)
                text = " · ".join(paths[source, target])
                if len(set(paths[source, target])) == 1 and len(paths[source, target]) > 1:
                    text = f"{len(paths[source, target])} times {paths[source, target][0]}"
                label(ax, right + 0.09, y + 0.1, text, size=6.5, ha="left", color=shade(colour, -0.25))
        plus(ax, join, rows[target])
        side = sides[target]
        arrow(ax, (join + 0.11, rows[target]), (join + 0.25, rows[target]))
        cuboid(
            ax, join + 0.28, rows[target] - side / 2, 0.1, side, 0.12 + 0.05 * target, colour=colours[target]
        )
        label(ax, left + 1.0, 0.17, f"sum, ReLU: {_times(shapes[target])}", size=7.5, color=GREY)
        if target < 2:
            ax.plot([left + 2.18] * 2, [0.1, 2.2], color="#DDE1E6", lw=0.8)
    return fig
