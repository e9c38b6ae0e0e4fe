"""The pictures and the table of the atlas of context; everything is read from ``results/atlas``, nothing measured."""

import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ctxnet.atlas.records import FOLDER, command, read_records, summary
from ctxnet.atlas.rows import FAMILIES
from ctxnet.files import write_bytes
from ctxnet.models.variants import VARIANTS
from ctxnet.paper.figures import figure, plots, style
from ctxnet.paper.results import MissingRecord, read_measured
from ctxnet.paper.words import Table, plain
from ctxnet.records import read_context, read_provenance, run_folder

OTHER = "your own"  # family of what is not in the table
MARKS = dict(zip([*FAMILIES, OTHER], zip("sovPDX^*", style.PALETTE[:7] + [style.GREY], strict=True), strict=True))
_SHORT = (
    ("ResNet-50, ", ""), ("permutations", "perm"), ("permutation", "perm"), ("random dilated", "random"),
    ("inserted dilated", "inserted"), ("3×3 dilated", "dilated"), (", convolution (ours)", ", conv"),
    (" + encoding", "+enc"), (" + attention", "+attn"), ("stages ", "st. "), (" (ResNet-50)", ""),
    (", 3 groups of 6", ""), (", d = ", " "), (" d = ", " "),
)  # fmt: skip


def load(name, root="."):
    """``(record, profile of the shown layers)`` of one network of the atlas.

    Raises:
        MissingRecord: there is none; ``.command`` makes it.
        ValueError: it is damaged.
    """
    folder = Path(root) / FOLDER / name
    return read_measured(folder, command(name)), read_context(folder)[0]


@figure(
    "", rests_on=("atlas",),
    alt="{name}: on the left the mean distance over the blocks; on the right the receptive field and the effective "
    "receptive field of up to four blocks.",
)  # fmt: skip
def draw_network(name, root="."):
    record, profile = load(name, root)
    fig = style.new_figure(height=2.0)
    columns = len(profile.layers)
    left, *axes = fig.subplots(1, 1 + columns, width_ratios=[1.45] + [1] * columns)
    _curve(left, record, root)
    for number, (ax, index) in enumerate(zip(axes, record["shown"], strict=True)):
        plots.plot_context(profile, number, ax=ax)
        share, exact = record["rf_share"][index], "" if record["rf_exact"][index] else "≤ "
        erf = record["erf_share"]["0.9"][index]
        ax.set_title(f"block {index + 1} of {len(record['layers'])}", fontsize=8, pad=3)
        used = "no gradient" if erf is None else f"90 % of ERF: {_percent(erf)}"
        ax.set_xlabel(f"RF {exact}{record['rf_side'][index]} px, {_percent(share)}\n{used}", fontsize=6.6)
    label = summary(record, name, root)["label"]
    title = f"{label}: {record['parameters'] / 1e6:.3g} M parameters, {_giga(record['multiply_adds'])} multiply-adds, "
    trained = "at initialisation" if record["weights"] == "initial" else f"weights: {record['weights']}"
    title += f"{record['size']} px, {trained}"
    fig.suptitle(_no_formula(title), fontsize=min(8.5, 8.5 * 98 / len(title)))  # 98 letters fill the width
    return fig


def _curve(ax, record, root):
    """Mean distance over the blocks as a share of the side, also of the network trained under ``small``."""
    lines = [("full size, initial" if record["weights"] == "initial" else _no_formula(record["weights"]), record["distance"],
              record["size"], style.BLUE, "o")]  # fmt: skip
    folder = run_folder("small", record["small"], root=root)
    if record["small"] and (folder / "record.json").exists():
        profile, _ = read_context(folder)
        lines.append(("small, trained", profile.distance.tolist(), profile.rf.shape[-1], style.VERMILION, "^"))
    for label, distances, side, colour, marker in lines:
        values = [math.nan if d is None else 100 * d / side for d in distances]
        size = 3.4 if len(values) <= 20 else 2.2
        ax.plot(range(1, len(values) + 1), values, color=colour, marker=marker, markersize=size, linewidth=1.1, label=label)
    ax.set(xlabel="block", ylabel="mean distance, % of side")
    ax.set_ylim(0, max(52, ax.get_ylim()[1]))  # the same for all networks, and with room for the legend
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    ax.tick_params(labelsize=7)
    ax.xaxis.label.set_size(7.5)
    ax.yaxis.label.set_size(7.5)
    if len(lines) > 1:
        ax.legend(fontsize=6.2, loc="upper left", borderaxespad=0.1, handlelength=1.4, labelspacing=0.2)


@figure(
    "A.1", rests_on=("atlas",), networks="full size, at initialisation",
    caption="The atlas: parameters against the mean distance at the last block and against the share of the image's pixels "
    "that hold 90 % of its effective receptive field.",
    alt="Two scatter plots, one above the other, with a logarithmic axis of parameters and one labelled point per network. "
    "Most networks lie between 28 and 39 % of the side; AlexNet, VGG, ConvNeXt, ResMLP and super-resolution lie far below.",
)  # fmt: skip
def draw_overview(root="."):
    records = read_records(root)
    if not records:
        raise MissingRecord(Path(root) / FOLDER, command())
    fig = style.new_figure(height=10.6)
    rows = [summary(record, name, root) for name, record in records.items()]
    panels = {
        "distance_share": "mean distance at the last block, % of the side",
        "erf90_share": "pixels that hold 90 % of the ERF, % of the image",
    }
    axes = fig.subplots(2, 1)
    for ax, (key, label) in zip(axes, panels.items(), strict=True):
        for row in rows:
            if row[key] != "":
                marker, colour = MARKS[row["family"] or OTHER]
                ax.plot(row["parameters"] / 1e6, 100 * row[key], marker=marker, color=colour, markersize=5,
                        markeredgecolor="white", markeredgewidth=0.5, linestyle="none", zorder=3)  # fmt: skip
        ax.set(xscale="log", xlabel="parameters, millions", ylabel=label)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        low, high = ax.get_xlim()
        ax.set_xlim(low / 1.4, high * 1.5)
    used = {row["family"] or OTHER for row in rows}
    handles = [Line2D([], [], marker=marker, color=colour, linestyle="none", label=family)
               for family, (marker, colour) in MARKS.items() if family in used]  # fmt: skip
    fig.legend(handles=handles, loc="outside lower center", ncols=math.ceil(len(handles) / 2))
    FigureCanvasAgg(fig).draw()  # fixes the axes, so that labels can be placed in pixels
    fig.set_layout_engine("none")
    for ax, key in zip(axes, panels, strict=True):
        points = [(r["parameters"] / 1e6, 100 * r[key], _short(r["label"])) for r in rows if r[key] != ""]
        place_labels(ax, points)
    return fig


def place_labels(ax, points, *, size=5.8):
    """Write a label beside each point so that no label covers another or a point.

    Greedy: the most crowded points choose first, each the nearest free place around it; from further away a thin line
    leads to the point.

    Args:
        ax: axes whose limits and place in the figure are final.
        points: list of (x, y, text).
        size: of the letters, in points.

    Returns:
        Boxes (left, bottom, right, top) of the labels in pixels, in the order of ``points``.
    """
    renderer, scale = FigureCanvasAgg(ax.figure).get_renderer(), ax.figure.dpi / 72
    frame = ax.get_window_extent(renderer)
    at = ax.transData.transform([(x, y) for x, y, _ in points])
    radius = 3.4 * scale  # half of a marker
    marks = np.column_stack([at - radius, at + radius])
    texts = [ax.text(0, 0, text, size=size, ha="center", va="center", zorder=4) for *_, text in points]
    extents = [text.get_window_extent(renderer) for text in texts]
    crowd = (np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)) < 45 * scale).sum(1)
    boxes, lines = np.full((len(points), 4), np.nan), np.full((len(points), 4), np.nan)
    for index in sorted(range(len(points)), key=lambda i: (-crowd[i], i)):
        half = np.array([extents[index].width / 2 + 1.2 * scale, extents[index].height / 2 + 0.2 * scale])
        best = None
        for centre, gap in _candidates(at[index], half, radius, scale):
            box = np.concatenate([centre - half, centre + half])
            inside = box[0] >= frame.x0 and box[1] >= frame.y0 and box[2] <= frame.x1 and box[3] <= frame.y1
            taken = _overlaps(box, marks).any() or _overlaps(box, boxes).any() or _crossings(lines, box[None]).any()
            if taken or not inside:
                continue
            line = np.concatenate([at[index], np.clip(at[index], box[:2], box[2:])])
            hits, others = _crossings(line[None], boxes).sum(), _crossings(line[None], np.delete(marks, index, 0)).sum()
            cost = gap + 25 * scale * (hits + 0.3 * others) * (gap > 3 * scale)
            if best is None or cost < best[0]:
                best = cost, box, line, gap
            if cost < gap + 1e-9 and best[0] <= gap + 1e-9:
                break
        if best is None:  # nowhere free: better no label than one over another
            texts[index].set_visible(False)
            continue
        _, boxes[index], line, gap = best
        texts[index].set_position(ax.transData.inverted().transform((boxes[index][:2] + boxes[index][2:]) / 2))
        if gap > 3 * scale:
            lines[index] = line
            ends = ax.transData.inverted().transform(line.reshape(2, 2))
            ax.plot(*ends.T, color=style.GREY, linewidth=0.4, zorder=2)
    return [tuple(box) for box in boxes]


def _candidates(point, half, radius, scale):
    """Centres for a label of half its size ``half`` around a point, near ones first, with their gap to the point."""
    for gap in np.array([0.5, 3, 7, 12, 18, 25, 33, 42, 52, 64, 78, 95, 115]) * scale:
        for angle in np.arange(24) * 2 * math.pi / 24:
            direction = np.array([math.cos(angle), math.sin(angle)])
            # out along the direction until the box, and not only its centre, is as far away as the gap
            reach = np.min((half + radius + gap) / np.maximum(np.abs(direction), 1e-9))
            yield point + direction * reach, gap


def _overlaps(box, others):
    """Which of the boxes (n, 4) overlap one; those not placed yet are NaN and overlap nothing."""
    return (box[0] < others[:, 2]) & (others[:, 0] < box[2]) & (box[1] < others[:, 3]) & (others[:, 1] < box[3])


def _crossings(lines, boxes):
    """Which lines (n, 4) run through which boxes (m, 4), tried at 24 points of each: bool (n, m). NaN is nowhere."""
    at = lines[:, :2] + np.linspace(0, 1, 24)[:, None, None] * (lines[:, 2:] - lines[:, :2])
    return ((at[:, :, None] > boxes[:, :2]) & (at[:, :, None] < boxes[:, 2:])).all(3).any(0)


def table(root=".", names=None):
    """The atlas as a table; networks without a record show the command that measures them.

    The last column is the speed of forward passes on the machine that measured (its provenance, not its record).

    Args:
        names: which; None: every record there is, in the table's order.
    """
    header = ["network", "family", "px", "params M", "G mult-adds", "whole image from block", "mean distance, first block",
              "last block", "pixels with 50 %", "90 %", "99 % of ERF", "trained small: last block", "img/s"]  # fmt: skip
    records, lines = read_records(root), []
    for name in names or records:
        if name not in records:
            lines.append([f"`{command(name)}`"] + [""] * (len(header) - 1))
            continue
        record = records[name]
        row = summary(record, name, root)
        first = record["distance"][0]
        cells = [plain(row["label"]), plain(row["family"] or OTHER), row["size_px"], _three(row["parameters"] / 1e6)]
        cells += [_three(row["multiply_adds"] / 1e9), f"{row['whole_image_from_block'] or 'none'} of {row['blocks']}"]
        shares = ["" if first is None else first / row["size_px"], row["distance_share"]]
        shares += [row[f"erf{part}_share"] for part in (50, 90, 99)] + [row["small_distance_share"]]
        lines.append([*map(str, cells), *(_percent(share) for share in shares), _speed(name, root)])
    return Table(header, lines, range(2, len(header)), rests_on=("atlas",),
                 caption="" if lines else f"No record yet: `{command()}`")  # fmt: skip


def whole_image(root="."):
    """From which block on each of the thesis' changed ResNets sees the whole image, as far as measured: a sentence."""
    reached, never = {}, []
    for name, record in read_records(root).items():
        if name in VARIANTS and VARIANTS[name].args:
            label = VARIANTS[name].label.replace(" (ours)", "")
            whole = next((block for block, share in enumerate(record["rf_share"], 1) if share == 1), None)
            never += [] if whole else [f"{label}, which sees {_percent(max(record['rf_share']))}"]
            reached.setdefault(whole, []).append(label)
    text = [f"from block {block} on: {', '.join(reached[block])}" for block in sorted(filter(None, reached))]
    text += [f"never: {'; '.join(never)}"] if never else []
    return f"The whole image is seen {'; '.join(text)}." if text else f"No record yet: `{command()}`"


def _speed(name, root):
    speed = read_provenance(Path(root) / FOLDER / name).get("images_per_second")
    return "–" if speed is None else _three(speed)


def write_figures(root=".", folders=None):
    """Draw ``context.png`` of networks and the overview (SVG and PNG) into ``results/atlas``; returns their paths.

    Args:
        folders: folders of records whose figures are due; None: all. Any that lacks its figure is drawn, too.
    """
    base, paths = Path(root) / FOLDER, []
    due = None if folders is None else {Path(folder).name for folder in folders}
    for name in read_records(root):
        path = base / name / "context.png"
        if due is None or name in due or not path.exists():
            write_bytes(path, style.figure_bytes(draw_network(name, root), "png", dpi=110, colours=96))
            paths.append(path)
    drawn = [base / f"overview.{kind}" for kind in ("svg", "png")]
    if not paths and due is not None and all(path.exists() for path in drawn):
        return drawn  # nothing was measured since
    overview = draw_overview(root)
    for kind, dpi in (("svg", 110), ("png", 130)):
        write_bytes(base / f"overview.{kind}", style.figure_bytes(overview, kind, dpi=dpi))
        paths.append(base / f"overview.{kind}")
    return paths


def _short(label):
    for long, short in _SHORT:
        label = label.replace(long, short)
    return _no_formula(label)


def _no_formula(text):
    """A name that somebody gave, for matplotlib, which sets what is between two dollars as a formula."""
    return text.replace("$", r"\$")


def _three(value):
    """Three digits, and never an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def _percent(share):
    if share in ("", None):
        return "–"
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"


def _giga(count):
    return f"{count / 1e9:.3g} G" if count >= 1e8 else f"{count / 1e6:.3g} M"
