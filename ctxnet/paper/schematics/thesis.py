"""Figures of chapters 1–3 by number: what draws each, its caption, and its text for who cannot see it."""

from dataclasses import dataclass

from ctxnet.naming import require_known
from ctxnet.paper.figures.degradation import figure_2_9
from ctxnet.paper.figures.style import save_figure
from ctxnet.paper.schematics.architectures import (
    figure_2_1,
    figure_2_2,
    figure_2_3,
    figure_2_4,
    figure_2_5,
    figure_2_6,
    figure_2_7,
    figure_2_8,
)
from ctxnet.paper.schematics.introduction import figure_1_1, figure_1_2, figure_1_3
from ctxnet.paper.schematics.method import figure_3_1, figure_3_2, figure_3_3, figure_3_4

_NOTEBOOKS = {"1": "01_introduction", "2": "02_architectures", "3": "03_method"}
_INITIAL = "full size, 224 px, at initialisation"


@dataclass(frozen=True)
class Diagram:
    """One figure: what draws it, its caption, its text alternative, and the networks it was drawn from."""

    draw: object
    caption: str
    alt: str
    networks: str


DIAGRAMS = {
    "1.1": Diagram(
        figure_1_1,
        "Receptive field of one feature of layer 2 after two 3×3 convolutions: 9 features of "
        "layer 1, 25 pixels.",
        "Three grids side by side: 25 marked cells in the input, 9 in layer 1, one in layer 2, "
        "joined by lines.",
        "two 3×3 convolutions",
    ),
    "1.2": Diagram(
        figure_1_2,
        "Growth of context with depth. a) Mean attention distance of each of the 12 heads in "
        "each block of ViT-B/16, at initialisation: before training every head weighs all "
        "patches almost alike; heads that look near are learned. b) Side of the receptive field"
        " at the end of the 16 blocks of ResNet-50, by layer arithmetic.",
        "Left: all dots lie on a level line near 116 px. Right: a curve rising from 19 px at "
        "block 1 to 427 px at block 16, past the image's 224 px at block 12.",
        "ViT-B/16 and ResNet-50, " + _INITIAL,
    ),
    "1.3": Diagram(
        figure_1_3,
        "Receptive field and effective receptive field of the middle feature at the end of "
        "layer 2 of ResNet-50. Most of the gradient falls in the middle of the receptive field;"
        " summed over rows it is close to a normal curve.",
        "Left: a square of 91 px in the middle of the image. Middle: the same square with a "
        "dark blot in its centre that fades outwards. Right: a bell-shaped curve of column sums"
        " with a fitted normal curve.",
        "ResNet-50, " + _INITIAL,
    ),
    "2.1": Diagram(
        figure_2_1,
        "Configurations of the residual networks at 224 px, measured on the models: output "
        "sizes, blocks, parameters with the 1000-way classifier, and multiply-adds of one "
        "image.",
        "A table with one column per network, ResNet-18, 34, 50, 101 and 152; ResNet-50 is highlighted.",
        "ResNet-18/34/50/101/152, 1000 classes",
    ),
    "2.2": Diagram(
        figure_2_2,
        "Bottleneck block, with the shapes of the second block of layer 1: 1×1 to a quarter of "
        "the channels, 3×3, 1×1 back, plus the input. The dashed slot is where the blocks of "
        "chapter 3 go.",
        "From left to right a deep box, two shallow boxes and a deep box with convolutions "
        "between them; a line leads from the input over all of them to a plus sign at the end.",
        "ResNet-50",
    ),
    "2.3": Diagram(
        figure_2_3,
        "Vision transformer with the shapes of ViT-B/16: 14×14 patches of 16×16 pixels, a class"
        " token, learned position encodings, 12 encoder blocks.",
        "Left: an image cut into patches that become a row of tokens which enter the encoder. "
        "Right: one encoder block with attention, a multilayer perceptron and two shortcuts.",
        "ViT-B/16",
    ),
    "2.4": Diagram(
        figure_2_4,
        "Multi-head self-attention with the shapes of ViT-B/16, and what one head computes.",
        "Left: three linear maps feed twelve attention heads whose outputs are concatenated and"
        " mapped once more. Right: Q times K transposed, divided by 8, softmax, times V.",
        "ViT-B/16",
    ),
    "2.5": Diagram(
        figure_2_5,
        "The learned linear map from the tokens z to the queries Q, keys K and values V of all "
        "heads, drawn to scale.",
        "A low matrix z times a wide matrix of three parts equals three low matrices; one row "
        "is marked in each.",
        "ViT-B/16",
    ),
    "2.6": Diagram(
        figure_2_6,
        "Cosine similarity of the encoding of one patch with those of all others, for the 2-D "
        "sinusoidal encoding of equations (4)–(7) with 768 channels on 14×14 patches. (Learned "
        "encodings need a pretrained transformer.)",
        "A mosaic of small maps, each brightest at its own patch and along that patch's row and"
        " column, and one enlarged.",
        "2-D sinusoidal encoding",
    ),
    "2.7": Diagram(
        figure_2_7,
        "HRNet-W18: every stage keeps the resolutions it has and adds one of half the size, "
        "which starts from the lowest; after every module each resolution is fed by all others.",
        "Four stages from left to right with one, two, three and four rows of maps, joined by "
        "level, falling and rising arrows.",
        "HRNet-W18",
    ),
    "2.8": Diagram(
        figure_2_8,
        "How resolutions meet at the end of stage 3 of HRNet-W18: down by 3×3 convolutions of "
        "stride 2, up by a 1×1 convolution and enlargement. The thesis says bilinear; the "
        "implementation measured here repeats the nearest value.",
        "Three panels, one per target resolution; in each, three inputs are brought to one size and added.",
        "HRNet-W18",
    ),
    "2.9": Diagram(
        figure_2_9,
        "Degradation: error on the training batches (dashed) and on the validation images (solid) of plain networks and "
        "of residual ones with the same convolutions, by epoch. Means over seeds, bands from the smallest to the largest.",
        "Two panels of error curves over the epochs, training dashed and validation solid. Plain: with 56 layers both stay "
        "above 70 percent, with 20 layers they fall to about 45. Residual: both depths fall, to about 40 and 35 percent.",
        "plain-20/56 and ResNet-20/56, trained on Imagenette at 32 px",
    ),
    "3.1": Diagram(
        figure_3_1,
        "Random sparse connections of one position over two layers, from the indices of real "
        "blocks with three permutations on a 4×6 map: 15 connections besides the straight ones."
        " (With 1×1 convolutions only.)",
        "Three rows of circles; one filled circle on top is joined to four in the middle row, "
        "and those to fourteen in the lowest.",
        "permutations of layer1.0 and layer1.1, k = 3",
    ),
    "3.2": Diagram(
        figure_3_2,
        "The slot of a bottleneck filled by two permuted copies, from a real block's indices on"
        " a 2×2 map. The last 1×1 convolution takes three times the channels and gives as many "
        "as before.",
        "A cube with four lettered cells is copied three times, twice with its cells in another"
        " order; the copies are stacked and enter a 1×1 convolution.",
        "permutations of layer1.0, k = 2",
    ),
    "3.3": Diagram(
        figure_3_3,
        "Positions that a 3×3 convolution with dilation 2 and 3 reads.",
        "Two grids: nine positions on a regular lattice around the ordinary 3×3 window, wider "
        "apart on the right.",
        "3×3 convolutions with d = 2 and 3",
    ),
    "3.4": Diagram(
        figure_3_4,
        "Positions that a random dilated convolution with k = 8, d = 4 reads at two consecutive"
        " positions, from a real block's offsets: irregular, but the same shape everywhere.",
        "Two grids with the same eight scattered dots around the centre, on the right moved by one column.",
        "offsets of layer1.0, k = 8, d = 4",
    ),
}


def draw(number, *, folder=None, **kwargs):
    """Draw the figure ``number`` (``"1.1"`` … ``"3.4"``) and return it; with ``folder``, also write it there.

    ``kwargs`` go to its function, for instance ``root`` to figure 1.3.

    Raises:
        ValueError: for an unknown number, with the nearest ones.
    """
    entry = DIAGRAMS[require_known("figure", number, DIAGRAMS)]
    fig = entry.draw(**kwargs)
    if folder is not None:
        notebook = f"notebooks/{_NOTEBOOKS[number[0]]}.ipynb"
        save_figure(
            fig,
            number,
            caption=entry.caption,
            alt=entry.alt,
            notebook=notebook,
            folder=folder,
            networks=entry.networks,
        )
    return fig
