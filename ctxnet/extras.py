"""What the core does without: the extras of the package, and one way to say which of them is missing.

The core needs torch, numpy and safetensors. Everything else is imported where it is used.
"""

from importlib.util import find_spec

# Extra -> the modules it brings that are imported by name, as in pyproject.toml. `paper` contains the first three.
EXTRAS = {
    "plot": ("matplotlib",),
    "timm": ("timm", "torchvision"),
    "train": ("PIL", "fastai", "filelock", "tqdm", "yaml"),
    "paper": ("IPython", "jinja2", "latex2mathml", "nbclient", "nbconvert", "nbformat", "pandas", "papermill", "scipy"),
    "scale": ("grpc", "ray"),
}  # fmt: skip


class MissingExtra(ModuleNotFoundError):
    """An extra of the package is not installed. The message is one line with the command that installs it."""


def require(extra, *, user):
    """Check that an extra is installed, without importing any of it.

    Args:
        extra: one of :data:`EXTRAS`.
        user: who needs it; the first words of the message.

    Raises:
        MissingExtra: if one of its modules is not there.
    """
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise missing(module, extra, user=user)


def missing(module, extra, *, user):
    """The :class:`MissingExtra` of ``user``, which needs ``module`` of ``extra`` (or of several, with commas)."""
    return MissingExtra(f"{user} needs {module}, which is not installed: pip install 'ctxnet[{extra}]'", name=module)
