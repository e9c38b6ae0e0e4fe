"""What runs elsewhere, and what the runs there tell of themselves.

Ray carries this module to its workers by value, so that a worker that lacks something can say what. It therefore imports
nothing but the standard library.
"""

import hashlib
import platform
from importlib import metadata, util
from pathlib import Path


def versions(packages):
    """What a run's result depends on here: package → version, None where it is not installed.

    ``code of ctxnet`` is a digest of the package's own source, since several checkouts have one version.
    """
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    spec = util.find_spec("ctxnet")
    digest = hashlib.sha256()
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")) if spec else ():
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    found["code of ctxnet"] = digest.hexdigest()[:12] if spec else None
    return found


def differing(expected):
    """What differs here from the versions of the campaign, in words; "" where nothing does."""
    here = versions([name for name in expected if name not in ("python", "code of ctxnet")])
    names = [name for name in expected if here[name] != expected[name]]
    return ", ".join(f"{name} {here[name] or 'missing'} instead of {expected[name] or 'none'}" for name in names)


def train(expected, order, keeper):
    """One run: :func:`ctxnet.scale.task.train`, unless versions differ from ``expected`` (None: they are the same)."""
    if expected is not None and (text := differing(expected)):
        import ray

        return {"status": "refused", "text": f"worker {ray.util.get_node_ip_address()}: {text}"}
    from ctxnet.scale.task import train

    return train(order, keeper)


class Keeper:
    """An actor that holds what runs tell while they are on their way: epochs done and, where no folder is shared, their
    last checkpoint. One that was lost and started again knows nothing, which costs epochs and no result."""

    def __init__(self):
        self.done, self.checkpoints = {}, {}

    def epoch(self, key, done):
        self.done[key] = done

    def epochs(self):
        return self.done

    def keep(self, key, digest, data):
        self.checkpoints[key] = (digest, data)

    def digests(self):
        return {key: digest for key, (digest, _) in self.checkpoints.items()}

    def checkpoint(self, key):
        """(SHA-256, bytes) of a run's last checkpoint, or None."""
        return self.checkpoints.get(key)

    def forget(self, key):
        self.checkpoints.pop(key, None)
        self.done.pop(key, None)
