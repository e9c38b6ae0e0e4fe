"""The command line: ``ctxnet list | train | campaign | keep | measure | atlas | compare | report | site``."""

import argparse
import dataclasses
import os
import sys
import time
from functools import partial
from pathlib import Path

from .extras import EXTRAS, MissingExtra, missing
from .files import one_line
from .naming import in_range, unknown_name
from .process import one_interrupt


def _argument(convert):
    """For argparse, which shows what is wrong with a word only if an error of its own says so."""

    def checked(text):
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("=")) from None

    return checked


def _number(kind, interval):
    """A number of this kind within an interval such as "[1, 64]"."""

    @_argument
    def parse(text):
        try:
            number = kind(text)
        except ValueError:
            raise ValueError(f"{text!r} must be of type {kind.__name__}") from None
        return in_range(number, interval, "")

    return parse


@_argument
def _seed(text):
    from .training.seeds import parse_seeds

    return parse_seeds(text).label


@_argument
def _parameters(text):
    from .atlas.every import parse_count

    return parse_count(text)


_COUNT = _number(int, "[1, 1024]")
OPTIONS = {  # that several commands take
    "--protocol": {"required": True, "help": "a group of params.yaml: quick, small, thesis"},
    "--variant": {"required": True, "help": "a name from `list`"},
    "--seed": {"type": _seed, "default": 0, "help": "a number, or a label such as 7-init3-draw4"},
    "--max-minutes": {"type": _number(float, "(0, 1000000]"),
                      "help": "stop cleanly before the epoch that would not end in time"},
    "--device": {"choices": ("cpu", "cuda"), "metavar": "device", "help": "instead of the protocol's own"},
    "--quiet": {"action": "store_true", "help": "no progress bar"},
    "--root": {"default": ".", "help": "folder that holds params.yaml, notebooks, data and results"},
    "--params": {"default": "params.yaml", "help": "settings file"},
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Offers the near name for a mistyped command or choice."""

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, str(unknown_name(action.metavar or "command", value, action.choices)))


def _list(args):
    from . import count_parameters, create_model, list_models
    from .models.variants import VARIANTS

    if not args.parameters:
        print("\n".join(list_models(args.pattern)))
        return
    for name in list_models(args.pattern):
        parameters = count_parameters(create_model(name)) / 1e6
        print(f"{name:32}{parameters:8.3f} M  {VARIANTS[name].label}")


def _protocol(args):
    """The settings that are named, on the device that is."""
    from .training import load_protocol

    protocol = load_protocol(args.protocol, args.params)
    return dataclasses.replace(protocol, device=args.device) if args.device else protocol


def _train(args):
    from .training import run, run_on_devices
    from .training.campaign import outcome
    from .training.group import launched

    protocol = _protocol(args)
    devices = int(os.environ["WORLD_SIZE"]) if launched() else args.devices
    go = run if devices == 1 else partial(run_on_devices, devices)
    result = go(protocol, args.variant, args.seed, root=args.root, max_minutes=args.max_minutes, progress=not args.quiet)
    if result.record:
        print(f"{outcome(result.record)} of {result.record['n']}; {result.folder}")


def _keep(args):
    from .training import load_protocol
    from .training.keep import keep

    path, about = keep(load_protocol(args.protocol, args.params), args.variant, args.seed, root=args.root)
    print(f"top-1 {about['top1_half']:.2%} of {about['n']} in half precision, {about['top1']:.2%} by the record; {path}")


def _campaign(args):
    side_by_side = not (args.status or args.dry_run) and (args.address or (args.at_once or 1) > 1) and _can_use_ray(args)
    from .training import campaign, plan, status

    protocol = _protocol(args)
    chosen = {"root": args.root, "rows": args.rows, "seeds": args.seeds}
    if args.status:
        _print_status(status(protocol, root=args.root), plan(protocol, **chosen))
    elif args.dry_run:
        _print_plan(plan(protocol, **chosen), args.at_once or 1)
    else:
        go = campaign
        if side_by_side:
            from .scale.campaign import campaign_on_ray

            go = partial(campaign_on_ray, at_once=args.at_once, address=args.address)
        _, failed = go(protocol, **chosen, max_minutes=args.max_minutes, progress=not args.quiet)
        if failed:
            raise RuntimeError(f"{len(failed)} runs failed: {', '.join(f'{row} seed {seed}' for row, seed in failed)}")


def _can_use_ray(args):
    """Whether runs can go side by side; if not, a line says what that takes. A cluster that was asked for must answer."""
    try:
        from .scale.address import require_answer
    except MissingExtra as error:
        if args.address:
            raise
        print(f"{error}; until then runs go one after the other", file=sys.stderr)
        return False
    if args.address:
        require_answer(args.address)
    return True


def _print_status(campaigns, jobs):
    for found in campaigns:
        left = "" if found["minutes_left"] is None else f", {found['minutes_left']:.1f} minutes left"
        failed = f", {found['failed']} failed" if found["failed"] else ""
        print(f"a campaign since {time.strftime('%F %T', time.localtime(found['started']))}: {found['finished']} of "
              f"{found['runs']} runs finished{failed}{left}")  # fmt: skip
        for row, seed, done, of in found["running"]:
            print(f"  {row:32}{seed:>5}{f'{done}/{of}':>10}")
    finished = sum(job.minutes == 0 for job in jobs)
    print(f"{len(campaigns)} campaigns on their way; {finished} of {len(jobs)} runs are finished")


def _print_plan(jobs, at_once):
    from .training.simulation import simulate

    print(f"{'row':32}{'seed':>5}{'epochs':>10}{'minutes':>9}")
    for job in jobs:
        minutes = "?" if job.minutes is None else f"{job.minutes:.1f}"
        print(f"{job.variant:32}{job.seed:>5}{f'{job.epochs}/{job.of}':>10}{minutes:>9}  {job.basis}")
    known, unknown = sum(job.minutes or 0 for job in jobs), sum(job.minutes is None for job in jobs)
    text = f"{known:.0f} minutes" if not unknown else f"{known:.0f} minutes and {unknown} runs that nobody has timed"
    if at_once > 1:
        span = simulate([job.minutes for job in jobs if job.minutes], at_once)
        text += f", {span:.0f} with {at_once} at once if each is as fast as alone"
    print(f"{sum(job.minutes != 0 for job in jobs)} of {len(jobs)} runs to do, {text}")


def _measure(args):
    from .training import measure_lattice, measure_surface, measure_variant, measure_wiring

    for flag in ("everywhere", "surface"):
        if getattr(args, flag) and not args.variant:
            raise ValueError(f"--{flag} goes with --variant, not with --{'protocol' if args.protocol else 'sliders'}")
    how = {"root": args.root, "progress": not args.quiet}
    if args.sliders:
        from .atlas.states import CONTROLS, measure_states

        for name in CONTROLS:
            print(measure_states(name, **how))
    elif args.protocol:
        print(measure_wiring(args.protocol, args.params, **how))
    elif args.surface:
        print(measure_surface(args.variant, args.params, **how))
    elif args.everywhere:
        print(measure_lattice(args.variant, args.params, **how))
    else:
        print(measure_variant(args.variant, args.params, root=args.root))


def _report(args):
    from .paper import coherence, dense, pays, reach
    from .paper.claims import write_claims
    from .paper.words import write_overview, write_tables

    own = {dense.PROTOCOL: dense.write_dense} | dict.fromkeys(pays.PROTOCOLS, pays.write_pays)
    for protocols in reach.TASKS.values():
        own |= dict.fromkeys(protocols.values(), reach.write_reach)
    if args.protocol in own:  # has tables of its own alone
        print(own[args.protocol](args.root))
        return
    print(write_tables(args.protocol, args.root))
    write_claims(args.protocol, args.root)
    if args.protocol == coherence.PROTOCOL:
        coherence.write_coherence(args.root)
    if args.readme:
        write_overview(args.readme, args.protocol, args.root)


def _atlas(args):
    from .atlas import ROWS, measure_rows
    from .atlas.every import FOLDER, is_pattern

    if args.list:
        print("\n".join(f"{name:32}{row.family:14}{row.label}" for name, row in ROWS.items()))
        return
    if args.accuracies:
        from .atlas.accuracies import TABLE, keep_accuracies

        kept = keep_accuracies(args.root)
        print(f"{(Path(args.root) / FOLDER / TABLE).as_posix()}: {len(kept)} architectures with a published accuracy")
        return
    if any(map(is_pattern, args.names)):
        _every(args)
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


def _every(args):
    from .atlas.every import FOLDER, TABLE, is_pattern, measure_every

    for option in ("weights", "pretrained", "input_size", "redraw"):
        if getattr(args, option):
            raise ValueError(f"--{option.replace('_', '-')} belongs to networks that are named, not to a pattern")
    if plain := [name for name in args.names if not is_pattern(name)]:
        raise ValueError(f"{plain[0]} is no pattern; measure it by a command of its own: python -m ctxnet atlas {plain[0]}")
    rows = measure_every(
        args.names, root=args.root, max_parameters=args.max_params, at_once=args.at_once, imports=args.imports,
        retry=args.retry, progress=not args.quiet,
    )
    refused = [row["refused"] for row in rows.values() if "refused" in row]
    kinds = ", ".join(f"{refused.count(kind)} {kind}" for kind in sorted(set(refused)))
    counts = f"{len(rows) - len(refused)} of {len(rows)} measured" + (kinds and f"; {kinds}")
    print(f"{(Path(args.root) / FOLDER / TABLE).as_posix()}: {counts}")


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

    def command(name, function, needs, text, *shared):
        """``needs``: what the command takes beside the core; ``shared``: names of :data:`OPTIONS`."""
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function, command=name, needs=needs)
        for option in shared:
            sub.add_argument(option, **OPTIONS[option])
        return sub

    sub = command("list", _list, "timm", "List the networks.")
    sub.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as '*perm*'")
    sub.add_argument("--parameters", action="store_true", help="count parameters, without the classifier")

    sub = command("train", _train, "train,timm",
                  "Train one network under a protocol, or go on where an earlier call stopped.",
                  "--protocol", "--variant", "--seed", "--max-minutes", "--device", "--quiet", "--root", "--params")
    sub.add_argument("--devices", type=_COUNT, default=1, metavar="N", help="train by N processes, one for each GPU")

    sub = command("campaign", _campaign, "train,timm",
                  "Run the next unfinished rows and seeds of a protocol inside a time box.",
                  "--protocol", "--max-minutes", "--device", "--quiet", "--root", "--params")
    sub.add_argument("--rows", nargs="+", help="only these")
    sub.add_argument("--seeds", nargs="+", type=_seed, help="only these")
    sub.add_argument("--at-once", type=_COUNT, metavar="N", help="so many runs side by side, by Ray")
    sub.add_argument("--address", metavar="A", help="a Ray cluster: auto, host:port or ray://host:port")
    sub.add_argument("--status", action="store_true", help="say how far the campaigns on their way are")
    sub.add_argument("--dry-run", action="store_true", help="print the plan with minutes per run")

    command("keep", _keep, "train,timm", "Put the weights of a finished run among the trained networks of the package.",
            "--protocol", "--variant", "--seed", "--root", "--params")

    sub = command("measure", _measure, "train,timm,plot",
                  "Measure RF, ERF and mean distance of a full-size network at initialisation.",
                  "--quiet", "--root", "--params")
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--variant", help="a name from `list`")
    which.add_argument("--protocol", help="instead the cost and the share of blind weights of all rows of this protocol")
    which.add_argument("--sliders", action="store_true", help="instead every state of the sliders of chapters 1 and 3")
    sub.add_argument("--everywhere", action="store_true", help="at a lattice of positions over a photograph")
    sub.add_argument("--surface", action="store_true", help="train a small one, and record the loss around it")

    sub = command("report", _report, "paper", "Write the tables of a protocol from its records.",
                  "--protocol", "--root", "--params")
    sub.add_argument("--readme", help="also renew the table of rows in this Markdown file")

    _add_atlas(command("atlas", _atlas, "train,timm,plot",
                       "Measure the context of every known architecture, or of those named, once.", "--quiet", "--root"))

    sub = command("compare", _compare, "paper", "Say whether two rows differ, by their finished runs: A minus B.", "--root")
    sub.add_argument("a", metavar="A", help="a name from `list`")
    sub.add_argument("b", metavar="B", help="another one, of the same protocol")
    sub.add_argument("--protocol", help="a group of params.yaml; small unless told")

    sub = command("site", _site, "paper", "Build the static site: chapters, atlas, explorer, model cards, PDF.", "--root")
    sub.add_argument("--protocol", default="small", help="a group of params.yaml whose results are shown")
    sub.add_argument("--out", default="site", help="folder of the site, relative to the root")
    sub.add_argument("--no-pdf", action="store_true", help="do not print the paper, which takes a Chromium")
    return parser  # fmt: skip


def _add_atlas(sub):
    sub.add_argument(
        "names", nargs="*", metavar="name",
        help="a row of --list, a timm or torchvision name (timm:resnet50), or path/to/file.py:function, whose code is run;"
        " a pattern such as 'timm:*' for all that match, a line each in results/timm",
    )
    sub.add_argument("--max-params", type=_parameters, metavar="N", help="of a pattern: no larger ones, such as 100M")
    sub.add_argument("--at-once", type=_COUNT, default=1, metavar="N", help="of a pattern: so many side by side")
    sub.add_argument("--accuracies", action="store_true", help="keep timm's published accuracies of what was measured")
    sub.add_argument("--retry", action="store_true", help="of a pattern: also those that could not be measured before")
    sub.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE",
                     help="of a pattern: a module that registers models with timm")
    sub.add_argument("--weights", help="file of weights (.safetensors, .pth) for the one network named")
    sub.add_argument("--pretrained", action="store_true", help="the library's weights, where they can be downloaded")
    sub.add_argument("--input-size", type=_number(int, "[8, 4096]"), metavar="PX",
                     help="side of the input instead of the network's own")
    sub.add_argument("--redraw", action="store_true", help="draw all figures again")
    sub.add_argument("--list", action="store_true", help="show the rows and stop")


def main(argv=None):
    args = build_parser().parse_args(argv)
    try:
        with one_interrupt():
            args.function(args)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if not any(module in modules for modules in EXTRAS.values()):
            raise
        extra = "scale" if module in EXTRAS["scale"] else args.needs
        sys.exit(f"ctxnet: {missing(module, extra, user=args.command)}")
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"ctxnet: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("ctxnet: interrupted; the same command goes on from its last checkpoint")


if __name__ == "__main__":
    main()
