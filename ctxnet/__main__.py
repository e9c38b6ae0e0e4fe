"""The command line: ``ctxnet list | train | campaign | measure | atlas | compare | report | site``."""

import argparse
import dataclasses
import sys
from functools import partial

from .extras import EXTRAS, missing
from .files import one_line
from .naming import in_range, unknown_name
from .process import one_interrupt


def _number(kind, interval):
    """For argparse: a number of this kind within an interval such as "[1, 64]"."""

    def parse(text):
        try:
            return in_range(kind(text), interval, "")
        except ValueError as error:
            reason = str(error) if str(error).startswith("=") else f"={text!r} must be of type {kind.__name__}"
            raise argparse.ArgumentTypeError(reason.removeprefix("=")) from None

    return parse


_MINUTES, _COUNT, _PIXELS = _number(float, "(0, 1000000]"), _number(int, "[1, 1024]"), _number(int, "[8, 4096]")

# What each command needs beside the core.
NEEDS = {
    "list": "timm",
    "train": "train,timm",
    "campaign": "train,timm",
    "measure": "train,timm,plot",
    "report": "paper",
    "atlas": "train,timm,plot",
    "compare": "paper",
    "site": "paper",
}


class _Parser(argparse.ArgumentParser):
    """Offers the near name for a mistyped command or choice."""

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, str(unknown_name(action.metavar or "command", value, action.choices)))


def _seed(text):
    from .training.seeds import parse_seeds

    try:
        return parse_seeds(text).label
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _list(args):
    from . import count_parameters, create_model, list_models
    from .models.variants import VARIANTS

    if not args.parameters:
        print("\n".join(list_models(args.pattern)))
        return
    for name in list_models(args.pattern):
        parameters = count_parameters(create_model(name)) / 1e6
        print(f"{name:32}{parameters:8.3f} M  {VARIANTS[name].label}")


def _train(args):
    from .training import load_protocol, run

    protocol = load_protocol(args.protocol, args.params)
    if args.device:
        protocol = dataclasses.replace(protocol, device=args.device)
    result = run(
        protocol, args.variant, args.seed, root=args.root, max_minutes=args.max_minutes, progress=not args.quiet
    )
    if result.record:
        record = result.record
        print(f"{record['variant']} seed {record['seed']}: top-1 {record['top1']:.2%} of {record['n']}; {result.folder}")


def _campaign(args):
    from .training import campaign, campaign_at_once, load_protocol, plan

    protocol = load_protocol(args.protocol, args.params)
    if args.device:
        protocol = dataclasses.replace(protocol, device=args.device)
    chosen = {"root": args.root, "rows": args.rows, "seeds": args.seeds}
    if not args.dry_run:
        go = campaign if args.at_once == 1 else partial(campaign_at_once, args.at_once)
        _, failed = go(protocol, **chosen, max_minutes=args.max_minutes, progress=not args.quiet)
        if failed:
            raise RuntimeError(f"{len(failed)} runs failed: {', '.join(f'{row} seed {seed}' for row, seed in failed)}")
        return
    jobs = plan(protocol, **chosen)
    print(f"{'row':32}{'seed':>5}{'epochs':>10}{'minutes':>9}")
    for job in jobs:
        minutes = "?" if job.minutes is None else f"{job.minutes:.1f}"
        print(f"{job.variant:32}{job.seed:>5}{f'{job.epochs}/{job.of}':>10}{minutes:>9}  {job.basis}")
    known, unknown = sum(job.minutes or 0 for job in jobs), sum(job.minutes is None for job in jobs)
    text = f"{known:.0f} minutes" if not unknown else f"{known:.0f} minutes and {unknown} runs that nobody has timed"
    print(f"{sum(job.minutes != 0 for job in jobs)} of {len(jobs)} runs to do, {text}")


def _measure(args):
    from .training import measure_lattice, measure_variant, measure_wiring

    if args.protocol:
        if args.everywhere:
            raise ValueError("--everywhere goes with --variant, not with --protocol")
        print(measure_wiring(args.protocol, args.params, root=args.root, progress=not args.quiet))
    elif args.everywhere:
        print(measure_lattice(args.variant, args.params, root=args.root, progress=not args.quiet))
    else:
        print(measure_variant(args.variant, args.params, root=args.root))


def _report(args):
    from .paper import coherence
    from .paper.claims import write_claims
    from .paper.words import write_overview, write_tables

    print(write_tables(args.protocol, args.root))
    write_claims(args.protocol, args.root)
    if args.protocol == coherence.PROTOCOL:
        coherence.write_coherence(args.root)
    if args.readme:
        write_overview(args.readme, args.protocol, args.root)


def _atlas(args):
    from .atlas import ROWS, measure_rows

    if args.list:
        print("\n".join(f"{name:32}{row.family:14}{row.label}" for name, row in ROWS.items()))
        return
    measured, kept, failed = measure_rows(
        args.names, root=args.root, weights=args.weights, pretrained=args.pretrained, input_size=args.input_size,
        progress=not args.quiet,
    )
    from .paper.figures.atlas import write_figures

    *_, overview = write_figures(args.root, None if args.redraw else measured)
    print(overview.parent / "atlas.csv")
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(measured) + len(kept) + len(failed)} not measured: {', '.join(failed)}")


def _site(args):
    from .paper.book.pdf import find_browser
    from .pipeline.stages import site

    if not args.no_pdf:
        find_browser()  # before minutes of work
    print(site(args.protocol, args.out, args.root, pdf=not args.no_pdf))


def _compare(args):
    from .paper.words import comparison

    print(comparison(args.protocol, args.a, args.b, args.root))


def build_parser():
    parser = _Parser(prog="ctxnet", description="Context in convolutional networks: train, measure, report.")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function, command=name)
        return sub

    sub = command("list", _list, "List the networks.")
    sub.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as '*perm*'")
    sub.add_argument("--parameters", action="store_true", help="count parameters, without the classifier")

    sub = command("train", _train, "Train one network under a protocol, or go on where an earlier call stopped.")
    sub.add_argument("--protocol", required=True, help="a group of params.yaml: quick, small, thesis")
    sub.add_argument("--variant", required=True, help="a name from `list`")
    sub.add_argument("--seed", type=_seed, default=0, help="a number, or a label such as 7-init3-draw4")
    sub.add_argument("--max-minutes", type=_MINUTES, help="stop cleanly before the epoch that would not end in time")
    sub.add_argument("--device", choices=("cpu", "cuda"), metavar="device", help="instead of the protocol's own")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")

    sub_campaign = command("campaign", _campaign, "Run the next unfinished rows and seeds of a protocol inside a time box.")
    sub_campaign.add_argument("--protocol", required=True, help="a group of params.yaml")
    sub_campaign.add_argument("--rows", nargs="+", help="only these")
    sub_campaign.add_argument("--seeds", nargs="+", type=_seed, help="only these")
    sub_campaign.add_argument("--max-minutes", type=_MINUTES, help="stop cleanly when the next epoch would not end in time")
    sub_campaign.add_argument("--at-once", type=_COUNT, default=1, metavar="N", help="so many runs side by side")
    sub_campaign.add_argument("--device", choices=("cpu", "cuda"), metavar="device", help="instead of the protocol's own")
    sub_campaign.add_argument("--dry-run", action="store_true", help="print the plan with minutes per run")
    sub_campaign.add_argument("--quiet", action="store_true", help="no progress bar")

    sub_measure = command("measure", _measure, "Measure RF, ERF and mean distance of a full-size network at initialisation.")
    which = sub_measure.add_mutually_exclusive_group(required=True)
    which.add_argument("--variant", help="a name from `list`")
    which.add_argument("--protocol", help="instead the cost and the share of blind weights of all rows of this protocol")
    sub_measure.add_argument("--everywhere", action="store_true", help="at a lattice of positions over a photograph")
    sub_measure.add_argument("--quiet", action="store_true", help="no progress bar")

    sub_report = command("report", _report, "Write the tables of a protocol from its records.")
    sub_report.add_argument("--protocol", required=True, help="a group of params.yaml")
    sub_report.add_argument("--readme", help="also renew the table of rows in this Markdown file")

    sub_atlas = command("atlas", _atlas, "Measure the context of every known architecture, or of those named, once.")
    sub_atlas.add_argument(
        "names", nargs="*", metavar="name",
        help="a row of --list, a timm or torchvision name (timm:resnet50), or path/to/file.py:function, whose code is run",
    )  # fmt: skip
    sub_atlas.add_argument("--weights", help="file of weights (.safetensors, .pth) for the one network named")
    sub_atlas.add_argument("--pretrained", action="store_true", help="the library's weights, where they can be downloaded")
    sub_atlas.add_argument("--input-size", type=_PIXELS, metavar="PX", help="side of the input instead of the network's own")
    sub_atlas.add_argument("--redraw", action="store_true", help="draw all figures again")
    sub_atlas.add_argument("--list", action="store_true", help="show the rows and stop")
    sub_atlas.add_argument("--quiet", action="store_true", help="no progress bar")
    sub_atlas.add_argument("--root", default=".", help="folder that holds results")

    sub_compare = command("compare", _compare, "Say whether two rows differ, by their finished runs: A minus B.")
    sub_compare.add_argument("a", metavar="A", help="a name from `list`")
    sub_compare.add_argument("b", metavar="B", help="another one, of the same protocol")
    sub_compare.add_argument("--protocol", help="a group of params.yaml; small unless told")
    sub_compare.add_argument("--root", default=".", help="folder that holds params.yaml and results")

    sub_site = command("site", _site, "Build the static site: chapters, atlas, explorer, model cards, PDF.")
    sub_site.add_argument("--protocol", default="small", help="a group of params.yaml whose results are shown")
    sub_site.add_argument("--out", default="site", help="folder of the site, relative to the root")
    sub_site.add_argument("--no-pdf", action="store_true", help="do not print the paper, which takes a Chromium")
    sub_site.add_argument("--root", default=".", help="folder that holds notebooks and results")

    for each in (sub, sub_campaign, sub_measure, sub_report):
        each.add_argument("--root", default=".", help="folder that holds params.yaml, data and results")
        each.add_argument("--params", default="params.yaml", help="settings file")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    try:
        with one_interrupt():
            args.function(args)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if not any(module in modules for modules in EXTRAS.values()):
            raise
        sys.exit(f"ctxnet: {missing(module, NEEDS[args.command], user=args.command)}")
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"ctxnet: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("ctxnet: interrupted; the same command goes on from its last checkpoint")


if __name__ == "__main__":
    main()
