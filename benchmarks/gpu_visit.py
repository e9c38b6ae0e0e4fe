"""Ten minutes of a GPU, used for what is worth most next: packages made here, a run there, records brought home.

    python -m benchmarks.gpu_visit pack --images data/imagenette2-224       # here: build/visit/, each file below 60 MB
    python3 visit.py run --minutes 9 --out home                             # there, in the folder that holds the packages
    python -m benchmarks.gpu_visit take home                                # here: records into results/
    python -m benchmarks.gpu_visit rehearse --images FOLDER                 # all three on this CPU, at toy size

``pack`` copies this file beside the packages as ``visit.py``; it needs Python's standard library alone. The machine needs
Python, torch, torchvision, timm, pandas and matplotlib; what else training needs travels with it.

A visit begins with what nobody has measured yet and goes on with runs, in this order: whether the fast paths (images on
the GPU, CUDA graphs, bfloat16) give what the plain one gives; speeds; protocol ``fast``; seed 0 of ``thesis``; chapter 6 at
full width. Records of runs that are finished travel along, so that the next visit goes on behind them. Whatever a visit has
made lies under ``--out`` at any moment, for a machine that is taken away.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

PART = 56 * 10**6  # bytes of images in a package
PROTOCOLS = ("fast", "thesis", "context_full", "context_full224")
# What `from fastai.vision.all import *` and our command line need beyond torch, torchvision, timm, pandas and matplotlib.
NEEDED = (
    "beartype", "defusedxml", "fastai", "fastcore", "fastdownload", "fastprogress", "fasttransform", "httpcore2", "httpx2",
    "itsdangerous", "plum-dispatch", "pydot", "python-fasthtml", "python-multipart", "starlette", "truststore",
)  # fmt: skip
KEPT = 14 * 2**20  # bytes of one file that comes home
LEFT = 20.0  # seconds at the end of a visit for packing what it made
REHEARSED = {  # of every protocol
    "device": "cpu", "precision": "float32", "width": 4, "image_size": 32, "epochs": 1, "decay_epochs": [],
    "warmup_epochs": 0, "batch_size": 8, "profile_images": 1, "seeds": [0], "initial_profile": False,
}  # fmt: skip


# ---- here: the packages ------------------------------------------------------------------------------------------------


def pack(images, out, *, root=".", site=True):
    """Write the packages of a visit and ``packages.json``, their sizes and SHA-256.

    Args:
        images: folder with ``train`` and ``val``; they travel as they are, best at 224 px.
        out: folder, made anew.
        site: whether to fetch :data:`NEEDED`; otherwise the machine must have all of them.

    Returns:
        {name of file: bytes}

    Raises:
        ValueError: ``images`` holds none; uv is missing.
    """
    images, out, root = Path(images), Path(out), Path(root)
    files = sorted(path for split in ("train", "val") for path in images.glob(f"{split}/*/*") if path.is_file())
    if not files:
        raise ValueError(f"{images}: no images in train/*/ and val/*/; nearest valid value: data/imagenette2-224")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy2(__file__, out / "visit.py")
    with tarfile.open(out / "code.tar.xz", "w:xz") as archive:
        for name in _code(root):
            archive.add(root / name, name)
    parts = max(1, -(-sum(path.stat().st_size for path in files) // PART))
    for part in range(parts):  # every so-manieth, so that each holds all classes
        with tarfile.open(out / f"images-{part}.tar", "w") as archive:
            for path in files[part::parts]:
                archive.add(path, f"images/{path.relative_to(images).as_posix()}")
    if site:
        _fetch_site(root, out / "site.tar.xz")
    found = {path.name: path for path in sorted(out.iterdir())}
    about = {name: {"bytes": path.stat().st_size, "sha256": digest(path)} for name, path in found.items()}
    (out / "packages.json").write_text(json.dumps(about, indent=1) + "\n")
    return {name: each["bytes"] for name, each in about.items()}


def _code(root):
    """The files of the working tree, without results but those of the protocols of a visit."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.check_output(command, cwd=root, text=True).split("\0")
    own = tuple(f"results/{protocol}/" for protocol in PROTOCOLS)
    return sorted(n for n in listed if n and (root / n).is_file() and (not n.startswith("results/") or n.startswith(own)))


def _fetch_site(root, path):
    """The packages of :data:`NEEDED`, as uv.lock pins them, unpacked for Python 3.12 on Linux."""
    import tomllib

    uv = shutil.which("uv", path=os.pathsep.join([os.environ.get("PATH", ""), str(root / ".uv" / "bin")]))
    if uv is None:
        raise ValueError("uv is not there to fetch the packages; nearest valid value: make setup, or --no-site")
    locked = {each["name"]: each["version"] for each in tomllib.loads((root / "uv.lock").read_text())["package"]}
    with tempfile.TemporaryDirectory() as folder:
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--target", folder, "--python-version", "3.12",
                   "--python-platform", "x86_64-manylinux_2_28"]  # fmt: skip
        subprocess.run([*command, *(f"{name}=={locked[name]}" for name in NEEDED)], check=True)
        with tarfile.open(path, "w:xz") as archive:
            archive.add(folder, "site")


def digest(path):
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


# ---- there: the visit --------------------------------------------------------------------------------------------------


def visit(packages, out, *, minutes, work=None, rehearse=False):
    """Unpack, do step after step until the time is over, and leave under ``out``: ``visit.json`` (what was done and how it
    ended), ``log.txt`` and ``results-*.tar.xz``.

    Args:
        packages: folder of :func:`pack`.
        work: folder that is kept, so that a second visit on one machine does not unpack again; None: a temporary one.

    Raises:
        ValueError: a package is missing or damaged, by name.
    """
    until, out = time.monotonic() + 60 * minutes, Path(out)
    out.mkdir(parents=True, exist_ok=True)
    require_whole(Path(packages))
    with tempfile.TemporaryDirectory() as scratch:
        code = unpacked(Path(packages), Path(work or scratch))
        if rehearse:
            toy(code)
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(code), str(code.parent / "site")]),
            "CTXNET_DATA": str(code.parent / "images"), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4"),
        }  # fmt: skip
        done = []
        for step in steps(code, rehearse):
            left = until - time.monotonic() - LEFT
            if left < 60 * step["least"]:
                done.append({"step": step["name"], "status": "no time left"})
                continue
            done.append(_do(step, code, environment, out, min(left, 60 * step["most"])))
            (out / "visit.json").write_text(json.dumps(done, indent=1) + "\n")
            bring(code, out)
        (out / "visit.json").write_text(json.dumps(done, indent=1) + "\n")
    return done


def require_whole(packages):
    about = json.loads((packages / "packages.json").read_text())
    for name, each in about.items():
        if not (packages / name).is_file():
            raise ValueError(f"{packages / name}: missing; bring all of {', '.join(about)}")
        if digest(packages / name) != each["sha256"]:
            raise ValueError(f"{packages / name}: damaged (its SHA-256 is not that of packages.json); bring it again")


def unpacked(packages, work):
    """Folder of the code under ``work``, with ``images`` and ``site`` beside it."""
    ready, mark = work / "code", (packages / "packages.json").read_text()
    if (work / "ready").is_file() and (work / "ready").read_text() == mark:
        return ready
    for name in ("code", "images", "site"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    _extract(packages / "code.tar.xz", ready)
    for package in sorted([*packages.glob("images-*.tar"), *packages.glob("site.tar.xz")]):
        _extract(package, work)
    (work / "ready").write_text(mark)
    return ready


def _extract(path, folder):
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")


def toy(code):
    """Every protocol of a visit at the size of a rehearsal, two rows each."""
    import yaml

    params = yaml.safe_load((code / "params.yaml").read_text())
    for name in PROTOCOLS:
        params["protocols"][name] |= REHEARSED | {"dataset": "images"}  # any few, which are not Imagenette
        params.setdefault("own_rows", {}).pop(name, None)
        params["more_seeds"].pop(name, None)
    params["rows"] = ["resnet50", "resnet50_perm1"]
    params["campaign"] = {"order": params["rows"], "assumed_minutes": {}}
    (code / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copytree(code.parent / "images", code / "images", dirs_exist_ok=True)


def steps(code, rehearse):
    """What a visit does, in order: ``name``, ``commands`` (side by side), ``least`` and ``most`` minutes."""
    device = "cpu" if rehearse else "cuda"
    python = [sys.executable, "-W", "ignore", "-m"]
    small = ["--size", "32", "--width", "4", "--batch", "4", "--images", "8", "--repeats", "1", "--rows", "tiny"]
    large = ["--size", "224", "--width", "64", "--precision", "bf16", "--graph", "--workers", "8", "--images", "1280"]
    found = [{"name": "paths", "commands": [[*python, "benchmarks.gpu_visit", "check", "--device", device]],
              "least": 0.0 if rehearse else 0.5, "most": 2.0}]  # fmt: skip
    if not (code / "results/benchmarks/training-gpu.md").exists():
        training = [*python, "benchmarks.training", "--device", device, *(small if rehearse else large)]
        found.append({"name": "speed", "commands": [training], "least": 0.0 if rehearse else 1.0, "most": 4.0})
    for protocol in PROTOCOLS:
        campaign = [*python, "ctxnet", "campaign", "--protocol", protocol, "--quiet"]
        campaign += ["--seeds", "0"] if protocol == "thesis" else []
        # Two share out the plan between them: a small batch leaves a large GPU half idle. A rehearsal tries that once.
        count = 1 if rehearse and protocol != "fast" else 2
        found.append({"name": protocol, "commands": [campaign] * count, "least": 0.0 if rehearse else 0.7, "most": 60.0})
    return found


def _do(step, code, environment, out, seconds):
    """Run the commands of a step side by side, at most so long; what they have made comes to ``out`` every minute."""
    begun, processes = time.monotonic(), []
    with open(out / "log.txt", "a") as log:
        for command in step["commands"]:
            if "campaign" in command:
                command = [*command, "--max-minutes", f"{seconds / 60:.3g}"]
            log.write(f"\n$ {' '.join(command[1:])}\n")
            log.flush()
            processes.append(subprocess.Popen(command, cwd=code, env=environment, stdout=log, stderr=log))
        brought = begun
        while any(process.poll() is None for process in processes):
            time.sleep(0.2)
            now = time.monotonic()
            if now - begun > seconds + LEFT / 2:
                for process in processes:
                    process.kill()
            if now - brought > 60:
                bring(code, out)
                brought = now
    codes = [process.wait() for process in processes]
    status = "done" if not any(codes) else f"ended with {', '.join(map(str, codes))}; see log.txt"
    return {"step": step["name"], "status": status, "seconds": round(time.monotonic() - begun, 1)}


def bring(code, out):
    """Pack the records and tables that were made into ``out``, no weights, in files of at most :data:`KEPT` bytes."""
    names = [path for protocol in PROTOCOLS for path in sorted((code / "results" / protocol).rglob("*"))]
    names += sorted((code / "results" / "benchmarks").glob("*-*.*")) + sorted((code / "data").glob("*.json"))
    unfinished = {path.parent for path in names if path.name.startswith("checkpoint")}
    parts, size = [[]], 0
    for path in names:
        if not path.is_file() or path.suffix in (".safetensors", ".partial") or path.name == ".lock":
            continue
        if path.parent in unfinished or ".campaigns" in path.parts:
            continue
        if size + path.stat().st_size > KEPT and parts[-1]:
            parts, size = [*parts, []], 0
        parts[-1].append(path)
        size += path.stat().st_size
    for number, part in enumerate(parts):
        partial = out / f"results-{number}.tar.xz.partial"
        with tarfile.open(partial, "w:xz") as archive:
            for path in part:
                archive.add(path, path.relative_to(code).as_posix())
        partial.rename(out / f"results-{number}.tar.xz")


def check(device):
    """Whether the fast paths give the losses of the plain one, on three kinds of rows.

    Plain: float32, images from memory, one kernel after another. Images that lie on the device give the same batches, a
    recorded step the same numbers within 10⁻³ (kernels are chosen anew), bfloat16 the same loss within 5 %.

    Raises:
        AssertionError: they do not; with row, path and losses.
    """
    import dataclasses

    import yaml

    from ctxnet.training import load_params, load_protocol, run

    graph = device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        root, params = Path(folder), load_params("params.yaml")
        params["probe"] |= {"train_images": 256, "valid_images": 64}
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        plain = dataclasses.replace(
            load_protocol("quick", root / "params.yaml"), device=device, width=16, epochs=1, warmup_epochs=0,
            learning_rate=0.01, profile_images=1,
        )  # fmt: skip
        paths = {  # worker processes read from memory; without them the images lie on the GPU
            "plain": ({"workers": 1}, 0.0), "resident": ({}, 1e-3 if graph else 0.0),
            "graph": ({"cuda_graph": True}, 1e-3), "bf16": ({"precision": "bf16"}, 5e-2),
        }  # fmt: skip
        for row in ("resnet50", "resnet50_perm1_attn", "resnet50_random_dilated8_conv"):
            losses = {}
            for name, (changes, within) in paths.items():
                if name == "graph" and not graph:
                    continue
                protocol = dataclasses.replace(plain, name=name, **changes)
                place = run(protocol, row, root=root, progress=False).folder
                losses[name] = float((place / "history.csv").read_text().splitlines()[1].split(",")[1])
                off = abs(losses[name] / losses["plain"] - 1)
                print(f"{row} {name}: loss {losses[name]:.6f}, {off:.1e} from the plain path", flush=True)
                assert off <= within, f"{row}, path {name}: losses {losses}"


# ---- here again: the records -------------------------------------------------------------------------------------------


def take(home, *, root="."):
    """Put what a visit brought home into the working tree; what is there already is left as it is.

    Returns:
        (files that are new, files that were there with the same content)

    Raises:
        ValueError: a file is there with another content; nothing has been written then.
    """
    root, archives = Path(root), sorted(Path(home).glob("results-*.tar.xz"))
    if not archives:
        raise ValueError(f"{home}: no results-*.tar.xz; nearest valid value: the folder that --out named")
    with tempfile.TemporaryDirectory() as folder:
        for archive in archives:
            _extract(archive, folder)
        brought = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        new, same = [], []
        for path in brought:
            here = root / path.relative_to(folder)
            if here.exists() and here.read_bytes() != path.read_bytes() and "benchmarks" not in here.parts:
                raise ValueError(f"{here}: is there already, with another content; move it away if the visit's is to count")
            (same if here.exists() and here.read_bytes() == path.read_bytes() else new).append(here)
        for here in new:
            here.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder) / here.relative_to(root), here)
    return len(new), len(same)


def rehearse(images, out, *, root=".", minutes=5.0):
    """The three parts on this CPU at toy size, from the packages; returns what :func:`visit` and :func:`take` say."""
    out = Path(out)
    sizes = pack(images, out / "packages", root=root, site=False)
    command = [sys.executable, str(out / "packages" / "visit.py"), "run", "--minutes", str(minutes), "--rehearse"]
    subprocess.run([*command, "--out", str(out / "home")], cwd=out / "packages", check=True, stdout=subprocess.DEVNULL)
    done = json.loads((out / "home" / "visit.json").read_text())
    taken = out / "tree"
    taken.mkdir()
    return sizes, done, take(out / "home", root=taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("pack", "rehearse"):
        sub = commands.add_parser(name)
        sub.add_argument("--images", default="data/imagenette2-224", help="folder with train and val")
        sub.add_argument("--out", default="build/visit" if name == "pack" else "build/rehearsal")
        sub.add_argument("--no-site", action="store_true", help="the machine has all that training needs")
    sub = commands.add_parser("run")
    sub.add_argument("--packages", default=".")
    sub.add_argument("--out", default="home")
    sub.add_argument("--minutes", type=float, default=9.0)
    sub.add_argument("--work", help="folder that is kept between visits; otherwise a temporary one")
    sub.add_argument("--rehearse", action="store_true", help="on a CPU, at toy size")
    commands.add_parser("check").add_argument("--device", default="cuda")
    commands.add_parser("take").add_argument("home")
    args = parser.parse_args()
    try:
        if args.command == "pack":
            for name, size in pack(args.images, args.out, site=not args.no_site).items():
                print(f"{name:16} {size / 1e6:7.1f} MB")
        elif args.command == "rehearse":
            shutil.rmtree(args.out, ignore_errors=True)
            Path(args.out).mkdir(parents=True)
            sizes, done, (new, _) = rehearse(args.images, args.out)
            print(*(f"{name}: {size / 1e6:.1f} MB" for name, size in sizes.items()), sep="\n")
            print(*(f"{each['step']}: {each['status']}" for each in done), f"{new} files came home", sep="\n")
        elif args.command == "run":
            done = visit(args.packages, args.out, minutes=args.minutes, work=args.work, rehearse=args.rehearse)
            print(*(f"{each['step']}: {each['status']}" for each in done), sep="\n")
        elif args.command == "check":
            check(args.device)
        else:
            print("{} files are new, {} were there".format(*take(args.home)))
    except ValueError as error:
        sys.exit(f"gpu_visit: {error}")


if __name__ == "__main__":
    main()
