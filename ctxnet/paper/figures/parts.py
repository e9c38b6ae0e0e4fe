"""Figures of appendix C: how the networks between LeNet and ConvNeXt look further."""

from ctxnet.atlas import roadmap
from ctxnet.paper.figures import atlas, figure, style

PANELS = {
    "small kernels, Inception": ("lenet5", "alexnet", "vgg16", "googlenet"),
    "shortcuts, groups, concatenation": ("resnet50", "resnext50_32x4d", "densenet121", "xception"),
    "fewer weights, mixing": ("squeezenet1_0", "efficientnet_b0", "convnext_tiny", "mixer_b16"),
}
SHOWN = ("ResNet-50", "3, 3, 9, 3 blocks", "patchify", "7×7 kernels", "ConvNeXt-T")  # the others look as their predecessor


@figure(
    "C.1", rests_on=("atlas",), networks="full size, at initialisation",
    caption="Side of the receptive field (solid) and mean distance (dashed) over the depth of twelve networks, as a share "
    "of the image's side.",
    alt="Three line charts over relative depth. Most receptive fields climb to the whole side; those of AlexNet, VGG-16 and "
    "SqueezeNet do not, those of EfficientNet and the Mixer are there from the first block. Mean distances "
    "stay below 40 percent.",
)  # fmt: skip
def depths(root="."):
    fig = style.new_figure(height=3.4)
    for ax, (title, names) in zip(fig.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
        for name, colour in zip(names, style.PALETTE, strict=False):
            record, _ = atlas.load(name, root)
            across = [(i + 1) / len(record["layers"]) for i in range(len(record["layers"]))]
            label = atlas.summary(record, name, root)["label"]
            ax.plot(across, [100 * side / record["size"] for side in record["rf_side"]], color=colour, label=label)
            far = [float("nan") if d is None else 100 * d / record["size"] for d in record["distance"]]
            ax.plot(across, far, color=colour, linestyle="--", linewidth=1.1)
        ax.set(xlabel="depth", xticks=(0, 0.5, 1), xlim=(0, 1), ylim=(0, 104))
        ax.set_title(title, fontsize=8.5)
        ax.legend(loc="upper center", fontsize=6.5, bbox_to_anchor=(0.5, -0.2), ncols=2)
    fig.axes[0].set_ylabel("% of the image's side")
    return fig


@figure(
    "C.2", networks="drawn from the networks themselves, 224 px",
    caption="From ResNet-50 to ConvNeXt-T: side of the receptive field block by block, for the steps that change it, and "
    "what every step costs.",
    alt="Left: five rising curves of the receptive field's side over the blocks; 7×7 kernels reach the whole image at block "
    "7 of 18 where 3×3 take 12. Right: bars of multiply-adds, highest with width 96, lowest with depthwise convolutions.",
)  # fmt: skip
def road():
    fig = style.new_figure(height=3.1)
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    for step, colour in zip([s for s in roadmap.STEPS if s.label in SHOWN], style.PALETTE, strict=False):
        sides = roadmap.field_sides(step)
        left.plot(range(1, len(sides) + 1), sides, color=colour, marker="o", markersize=2.5, label=step.label)
    left.set(xlabel="block", ylabel="side of the receptive field, px", xticks=range(2, 19, 4), ylim=(0, 232))
    left.legend(loc="lower right", fontsize=7)
    costs = [roadmap.cost(step)[1] / 1e9 for step in roadmap.STEPS]
    right.barh(range(len(costs))[::-1], costs, color=style.SKY)
    right.set_yticks(range(len(costs))[::-1], [step.label for step in roadmap.STEPS])
    for y, value in zip(range(len(costs))[::-1], costs, strict=True):
        right.text(value - 0.1, y, f"{value:.1f}", ha="right", va="center", fontsize=7)
    right.set(xlabel="multiply-adds, G")
    right.grid(axis="y", visible=False)
    return fig
