"""Where everything on the site comes from: stages, commits, machines and data, and the links to them."""

import re
from collections import Counter
from pathlib import Path

from ctxnet import provenance
from ctxnet.files import read_sealed
from ctxnet.paper import decays, few, pays, reach, words
from ctxnet.paper.figures import law
from ctxnet.paper.results import load_provenance, load_records, make_command
from ctxnet.records import read_provenance, read_table
from ctxnet.settings import group, read_yaml

PAGE = "made.html"
# What a figure may rest on beside the runs of its protocol: stage ("": made by a command alone), what it makes (runs are
# counted by protocol), provenance of its records (or a table whose rows name their commits), and data with a place on PAGE.
RECORDS = {
    "measure": ("measure", "full-size networks measured", "results/measure/*/provenance.json", "probe-images"),
    "lattice": ("lattice", "networks measured from everywhere", "results/lattice/*/provenance.json", "photograph"),
    "sliders": ("sliders", "sets of sliders measured", "results/sliders/*/provenance.json", ""),
    "surface": ("surface", "loss surfaces", "results/surface/maps/*/provenance.json", "probe-images"),
    "atlas": ("atlas", "networks of the atlas", "results/atlas/*/provenance.json", "probe-images"),
    "context": ("", "", "results/context/runs/*/seed*/provenance.json", ""),
    "dense": ("", "", "results/dense/runs/*/seed*/provenance.json", ""),
    "timm": ("", "networks of timm", "results/timm/networks.jsonl", "probe-images"),
    "reach": ("", "", "results/probe_d*/runs/*/seed*/provenance.json", "probe-images"),
    "pathfinder": ("", "", "results/pathfinder_*/runs/*/seed*/provenance.json", ""),
    **{name: ("", "", f"results/{name}/runs/*/seed*/provenance.json", "") for name in (*pays.PROTOCOLS, *decays.PROTOCOLS)},
    **{name: ("", "", f"results/{name}/runs/*/seed*/provenance.json", "probe-images") for name in few.PROTOCOLS},
    "degradation": ("train_own", "", "results/degradation*/runs/*/seed*/provenance.json", ""),
}
# How those are made that are no protocol, or several; any other name is a protocol.
COMMANDS = {"reach": reach.COMMANDS["probe"], "pathfinder": reach.COMMANDS["pathfinder"], "timm": law.COMMAND}


def stages(root="."):
    """The stages of dvc.yaml: list of dicts with ``name``, ``about``, ``command``, ``deps``, ``params``, ``outs``."""
    path, found = Path(root) / "dvc.yaml", []
    read, text = read_yaml(path), path.read_text(encoding="utf-8")
    for name, stage in group(read.get("stages"), f"{path}: stages").items():
        group(stage, f"{path}: stages.{name}")
        body = stage.get("do", stage)
        about = re.search(rf"^  {name}:[^#\n]*# (.+)$", text, re.M)
        found.append({
            "name": name, "about": about[1] if about else "",
            "command": _plain(" ".join(body["cmd"].removeprefix("exec ").split())),
            "outs": [_plain(next(iter(out)) if isinstance(out, dict) else out) for out in body.get("outs", ())],
        } | {key: [_plain(text) for text in body.get(key, ())] for key in ("deps", "params")})  # fmt: skip
    return found


def _plain(text):
    return re.sub(r"\$\{(?:item\.)?(\w+)\}", r"<\1>", text).replace("<item>", "<protocol>").replace("<key>", "<protocol>")


def sources(protocols, root="."):
    """What was made at which commit, from every provenance file.

    Returns:
        list of dicts, one per commit, in order of the number of results: ``commit`` (None: outside a checkout), ``subject``
        of the commit (empty if unknown here), ``dirty``, ``what`` (kind -> how many), ``machines``, ``versions``,
        ``minutes``.
    """
    root, found = Path(root), {}
    kinds = [(f"runs under {p}", f"results/{p}/runs/*/seed*/provenance.json") for p in protocols]
    kinds += [(what, pattern) for _, what, pattern, _ in RECORDS.values() if what]
    for kind, pattern in kinds:
        for about in _abouts(root, pattern):
            commit = about.get("commit")
            empty = {"what": Counter(), "dirty": False, "machines": set(), "versions": set(), "minutes": 0.0}
            entry = found.setdefault(anchor(commit), {"commit": commit} | empty)
            entry["what"][kind] += 1
            entry["dirty"] |= bool(about.get("dirty"))
            if about.get("device"):
                entry["machines"].add(f"{about['device']}, {about.get('cores')} cores")
            entry["versions"] |= {words.versions(about)} - {""}
            entry["minutes"] += (about.get("wall_seconds") or 0) / 60
    for entry in found.values():
        entry["subject"] = provenance.subject(entry["commit"], root) or ""
        entry["machines"], entry["versions"] = sorted(entry["machines"]), sorted(entry["versions"])
    return sorted(found.values(), key=lambda entry: (-entry["what"].total(), str(entry["commit"])))


def _abouts(root, pattern):
    """What each record says of its making: its provenance, or what a row of a table keeps of it."""
    for path in sorted(root.glob(pattern)):
        if path.suffix != ".jsonl":
            yield read_provenance(path.parent)
            continue
        for row in read_table(path).values():
            if "refused" not in row:
                yield {"commit": row["made"]["commit"], "wall_seconds": row["made"].get("seconds")}


def data_sets(protocols, root="."):
    """``{name: dict}`` of the data behind the protocols that have a summary in ``data/``; name is dataset-size."""
    found = {}
    for protocol in protocols:
        path = Path(root) / "data" / f"{protocol}.json"
        if path.exists():
            about = read_sealed(path)
            entry = found.setdefault(f"{about['dataset']}-{about['image_size']}", about | {"protocols": []})
            entry["protocols"].append(protocol)
    return found


class Origins:
    """What the lines under tables and figures say, read once: the runs of one protocol, the commits behind all records.

    Args:
        here: commit of the checkout the site is built in, or None.
    """

    def __init__(self, protocol, root=".", *, here):
        self.protocol, self.root, self.here = protocol, Path(root), here
        records = load_records(protocol, root)
        self.runs = len(records)
        self._commits = {}
        for variant, seed in zip(records["variant"], records["seed"], strict=True):
            commit = load_provenance(protocol, variant, seed, root).get("commit") or ""
            self._commits.setdefault(variant, set()).add(commit)
        self._resting = {
            name: {about.get("commit") or "" for about in _abouts(self.root, pattern)}
            for name, (*_, pattern, _) in RECORDS.items()
        }
        self._data = {name: list(data_sets([name], root)) for name in (protocol, *RECORDS)}

    def links(self, variants, *, notebook, rests_on=(), up=""):
        """Where a table or figure comes from, as list of (what, text, address or "") for the lines under it.

        Args:
            variants: rows whose trained networks it shows; empty: none of this protocol.
            notebook: path of the notebook relative to the root, or "".
            rests_on: further records it shows, names of :data:`RECORDS`.
            up: path from the page to the top of the site.
        """

        def at(place):
            return f"{up}{PAGE}#{place}"

        lines = [("notebook", notebook, f"{up}{notebook}")] if notebook else []
        lines.append(("stage", f"report@{self.protocol}", at("stage-report")))
        if variants:
            commits = sorted(set().union(*(self._commits.get(variant, ()) for variant in variants)))
            lines += [("commit", f"{short(commit)} (runs)", at(anchor(commit))) for commit in commits]
            lines += [("data", name, at(f"data-{name}")) for name in self._data[self.protocol]]
        for name in rests_on:
            stage, *_, data = RECORDS[name]
            command = COMMANDS.get(name) or make_command(name)
            lines.append(("stage", stage, at(f"stage-{stage}")) if stage else ("command", command, ""))
            lines += [("commit", f"{short(commit)} ({name})", at(anchor(commit))) for commit in sorted(self._resting[name])]
            names = [data] if data else self._data[name]
            under = [("data", text.replace("-", " ") if data else text, at(f"data-{text}")) for text in names]
            lines += [line for line in under if line not in lines]  # several records of the same images name them once
        if not variants and not rests_on:
            lines.append(("commit", f"{short(self.here)} (this site)", at("this")))
            lines.append(("data", "none: drawn from the networks themselves", at("data")))
        return lines


def everything(root="."):
    """What the page about origins shows."""
    from ctxnet.training import load_params

    protocols = list(load_params(Path(root) / "params.yaml")["protocols"])
    found = sources(protocols, root)
    listed = [entry | {"anchor": anchor(entry["commit"]), "short": short(entry["commit"])} for entry in found]
    return {"stages": stages(root), "sources": listed, "data": data_sets(protocols, root)}


def short(commit):
    """The first ten digits of a commit; whatever else a record says in its place is shown in part."""
    return "outside a checkout" if not commit else str(commit)[:10]


def anchor(commit):
    """Where a commit is on :data:`PAGE`; letters and digits only, whatever a record says."""
    return f"commit-{re.sub(r'[^0-9A-Za-z]', '', str(commit))[:10]}" if commit else "commit-none"
