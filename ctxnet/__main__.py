"""The command line: ``python -m ctxnet list | train | measure | report``. Every command is a call of the package."""

import argparse
import dataclasses
import sys

from .naming import unknown_name


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


def _measure(args):
    from .training import measure_variant

    print(measure_variant(args.variant, args.params, root=args.root))


def _report(args):
    from .report.html import build_report

    print(build_report(args.protocol, args.root))
    if args.readme:
        from .report.tables import write_overview

        write_overview(args.readme, args.protocol, args.root)


def build_parser():
    parser = _Parser(prog="python -m ctxnet", description="Context in convolutional networks: train, measure, report.")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = command("list", _list, "List the networks.")
    sub.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as '*perm*'")
    sub.add_argument("--parameters", action="store_true", help="count parameters, without the classifier")

    sub = command("train", _train, "Train one network under a protocol, or go on where an earlier call stopped.")
    sub.add_argument("--protocol", required=True, help="a group of params.yaml: quick, small, thesis")
    sub.add_argument("--variant", required=True, help="a name from `list`")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--max-minutes", type=float, help="stop cleanly before the epoch that would not end in time")
    sub.add_argument("--device", choices=("cpu", "cuda"), metavar="device", help="instead of the protocol's own")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")

    sub_measure = command("measure", _measure, "Measure RF, ERF and mean distance of a full-size network at initialisation.")
    sub_measure.add_argument("--variant", required=True, help="a name from `list`")

    sub_report = command("report", _report, "Gather the tables and figures of a protocol in one page.")
    sub_report.add_argument("--protocol", required=True, help="a group of params.yaml")
    sub_report.add_argument("--readme", help="also renew the table of rows in this Markdown file")

    for each in (sub, sub_measure, sub_report):
        each.add_argument("--root", default=".", help="folder that holds params.yaml, data and results")
        each.add_argument("--params", default="params.yaml", help="settings file")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    try:
        args.function(args)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"ctxnet: {error}")
    except KeyboardInterrupt:
        sys.exit("ctxnet: interrupted; the same command goes on from the last finished epoch")


if __name__ == "__main__":
    main()
