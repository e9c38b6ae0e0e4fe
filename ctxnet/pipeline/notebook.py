"""Run a notebook with typed parameters, as one command that fails loudly and leaves nothing behind.

A notebook declares its parameters in the cell tagged ``parameters``: plain literals, one per line,

    protocol = "quick"
    max_minutes: float = None      # an annotation gives the type where the literal does not
    variant: str                   # no value: must be given

Papermill executes the cells. What it does loosely is done here: names and types are checked before a kernel
starts (papermill only warns), values are written with ``repr`` (its command line misreads ``true``, ``1e-05``
and ``a=b``), and the executed notebook keeps nothing that differs between equal runs.

    python -m ctxnet.pipeline.notebook notebooks/runs/train.ipynb --protocol quick --variant resnet50
"""

import ast
import contextlib
import hashlib
import os
import re
import signal
import sys
from pathlib import Path

from ctxnet.files import one_line, remove_partials, write_text
from ctxnet.locking import one_writer
from ctxnet.naming import require_known, unknown_name
from ctxnet.process import die_with_parent, one_interrupt

REQUIRED = object()
TYPES = {kind.__name__: kind for kind in (str, bool, int, float, list, tuple, dict)}
_USAGE = "usage: python -m ctxnet.pipeline.notebook NOTEBOOK [--output FILE] [--PARAMETER VALUE ...]"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_SEAL, _UNSEALED = re.compile(r'"sha256": "([0-9a-f]{64})"'), f'"sha256": "{"0" * 64}"'  # quotes in cells are escaped
# Before it becomes a kernel, the process asks to be killed with its parent (elsewhere than on Linux ipykernel
# polls for that) and imports tqdm, which outside of IPython decides for text: widgets could not be streamed.
_KERNEL = """
import ctypes, os, signal, sys
import tqdm.auto
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv.pop(1)):
    os._exit(1)
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


class NotebookError(RuntimeError):
    """A cell failed; the message is one line: notebook, cell, error."""


def declared_parameters(notebook):
    """Read the cell tagged ``parameters`` without executing it.

    Returns:
        dict: name -> (type, default), where default is :data:`REQUIRED` for a name without a value.

    Raises:
        ValueError: when a line of the cell is anything but a typed literal.
    """
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(sources) > 1:
        raise ValueError(f"{notebook}: {len(sources)} cells are tagged 'parameters'; one is allowed")
    declared = {}
    try:
        lines = ast.parse("".join(sources)).body
    except SyntaxError as error:
        raise ValueError(f"{notebook}: parameters cell: {error}") from None
    for line in lines:
        try:
            match line:
                case ast.Assign(targets=[ast.Name(name)], value=value):
                    default = ast.literal_eval(value)
                    kind = type(default)
                case ast.AnnAssign(target=ast.Name(name), annotation=annotation, value=value):
                    default = REQUIRED if value is None else ast.literal_eval(value)
                    kind = TYPES[ast.unparse(annotation)]
                case _:
                    raise ValueError
            if kind not in TYPES.values():
                raise ValueError
        except (KeyError, ValueError):
            raise ValueError(
                f"{notebook}: parameters cell: {ast.unparse(line)!r} is not 'name = literal' "
                f"or 'name: type' with a type of {', '.join(TYPES)}"
            ) from None
        declared[name] = (kind, default)
    return declared


def check_parameters(declared, given):
    """Return ``given`` with the declared types; ints are accepted where floats are declared.

    Raises:
        ValueError: for an unknown name (with the near ones), a missing value, a value of another type.
    """
    checked = {}
    for name, value in given.items():
        require_known("parameter", name, declared)
        kind, default = declared[name]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind and not (value is None and default is None):
            raise ValueError(f"parameter {name!r} must be {kind.__name__}, not {value!r}")
        with contextlib.suppress(ValueError, SyntaxError):
            if ast.literal_eval(repr(value)) == value:
                checked[name] = value
        if name not in checked:
            raise ValueError(f"parameter {name!r} must be a finite literal, not {value!r}")
    missing = [name for name, (_, default) in declared.items() if default is REQUIRED and name not in given]
    if missing:
        raise ValueError(f"missing parameter {', '.join(map(repr, missing))}")
    return checked


def parse_value(name, kind, text):
    """Read a command-line word as the type its parameter was declared with."""
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text) if kind in (int, float) else ast.literal_eval(text)
        if type(value) is kind:
            return value
    except (KeyError, ValueError, SyntaxError):
        pass
    raise ValueError(f"parameter {name!r} must be {kind.__name__}, not {text!r}")


def run_notebook(notebook, parameters=None, output=None, root=".", *, held=False):
    """Execute ``notebook`` in a fresh kernel of this Python, with ``root`` as working directory.

    Text that the cells print, progress bars included, appears on this process' stdout and stderr as it comes.
    The kernel dies with this process, however that ends.

    Args:
        notebook: path, relative to ``root`` or absolute.
        parameters: values for names of the parameters cell; those left out keep their defaults.
        output: where to write the executed notebook, also when a cell fails; its folder is locked meanwhile.
        held: the caller holds that lock already.

    Raises:
        ValueError: before a kernel starts, for a wrong name, type or value.
        NotebookError: when a cell fails or the kernel dies.
        RuntimeError: at once, when another process is writing into the folder of ``output``.
    """
    path = Path(root) / notebook
    if not path.is_file():
        raise ValueError(f"no notebook {notebook}")
    values = check_parameters(declared_parameters(path), parameters or {})
    output = None if output is None else Path(root) / output
    lock = output is not None and not held
    with one_writer(output.parent) if lock else contextlib.nullcontext():
        if lock:
            remove_partials(output.parent)
        node, died = _execute(path, values, root)
        if output:
            write_executed(output, _without_traces(node))
    problem = died or _first_error(node)
    if problem:
        more = f" (traceback: {output})" if output else ""
        raise NotebookError(f"{notebook}, {problem}{more}")


def write_executed(path, node):
    """Write an executed notebook with the SHA-256 of its own text, which reads as zeros for that; with equal bytes for
    equal notebooks."""
    import nbformat

    node.metadata["sha256"] = "0" * 64
    text = nbformat.writes(node) + "\n"
    write_text(path, text.replace(_UNSEALED, f'"sha256": "{_digest(text)}"'))


def read_executed(path):
    """What :func:`write_executed` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: in one line with the path, if a single bit of it differs.
    """
    import nbformat

    data = Path(path).read_bytes()
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode()
        said = _SEAL.findall(text)
        if len(said) == 1 and _digest(_SEAL.sub(_UNSEALED, text)) == said[0]:
            return nbformat.reads(text, as_version=4)
    raise ValueError(f"{path}: damaged, or not executed by `ctxnet site` or a stage; move it away and run the same command")


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def _execute(path, values, root):
    """The executed notebook and, if the kernel died, a sentence about it."""
    import nbformat
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import NBClientEngine
    from papermill.iorw import load_notebook_node
    from papermill.log import logger

    logger.setLevel("CRITICAL")  # every failure is reported once, by run_notebook
    node = load_notebook_node(str(path))
    position = next((i for i, cell in enumerate(node.cells) if "parameters" in cell.metadata.tags), None)
    if values:
        source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        cell = nbformat.v4.new_code_cell(source, id="injected", metadata={"tags": ["injected-parameters"]})
        cell.metadata.papermill = {}
        node.cells.insert(position + 1, cell)
    try:
        NBClientEngine.execute_notebook(
            node,
            "python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            coalesce_streams=True,
            kernel_manager_class=_kernel_manager_class(),
            shutdown_kernel="immediate",
            resources={"metadata": {"path": str(Path(root).resolve())}},
        )
    except DeadKernelError:
        return node, "the kernel died; was there enough memory?"
    return node, None


def _kernel_manager_class():
    import zmq
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class CurrentPython(AsyncKernelManager):
        """Starts kernels of this interpreter, whatever is registered on the machine as ``python3``."""

        def __init__(self, **options):
            super().__init__(**options)
            self.transport_encryption = "auto" if zmq.has("curve") else "disabled"

        async def _async_interrupt_kernel(self):
            if not self.shutting_down:  # a kernel that is killed at once complains of an interrupt if there is time for it
                await super()._async_interrupt_kernel()

        @property
        def kernel_spec(self):
            return KernelSpec(
                argv=[sys.executable, "-c", _KERNEL, str(os.getpid()), "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
                env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"},
                metadata={"supported_encryption": ["curve"]},
            )

    return CurrentPython


def _first_error(node):
    for number, cell in enumerate((c for c in node.cells if c.cell_type == "code"), start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                lines = _ANSI.sub("", output.evalue).strip().splitlines() or [""]
                return f"code cell {number}: {output.ename}: {lines[-1]}".rstrip(": ")
        if cell.metadata.get("papermill", {}).get("exception"):
            return f"code cell {number} failed"
    return None


def _without_traces(node):
    """Drop what differs between equal runs: times, versions, addresses, widget ids, progress bars."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    node.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in node.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for data in (o.data for o in cell.outputs if "data" in o):
                data.pop("application/vnd.jupyter.widget-view+json", None)
                data["text/plain"] = _ADDRESS.sub("", data.get("text/plain", ""))
    return node


def command(work, arguments=None):
    """Call ``work(words)`` as a command line that ends with its parent process.

    Returns:
        The exit status: 0, 1 (refused or failed: one line on stderr), 130 (interrupted); 143 if terminated.
    """
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with one_interrupt():
            work(sys.argv[1:] if arguments is None else list(arguments))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def main(arguments=None):
    """Run the notebook that the command line names; returns the exit status."""
    return command(lambda words: run_notebook(*_parse(words)), arguments)


def _parse(words):
    """(notebook, parameters, output) of a command line."""
    if not words or words[0] in ("-h", "--help"):
        raise ValueError(_USAGE)
    notebook, words = words[0], iter(words[1:])
    if not Path(notebook).is_file():
        raise ValueError(f"no notebook {notebook}; {_USAGE}")
    declared = declared_parameters(notebook)
    output, values = None, {}
    for word in words:
        option, equals, text = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option == name or (name not in declared and name != "output"):
            raise unknown_name("parameter", option, [f"--{known}" for known in (*declared, "output")])
        if not equals and (text := next(words, None)) is None:
            raise ValueError(f"{option} needs a value")
        if name == "output":
            output = text
        else:
            values[name] = parse_value(name, declared[name][0], text)
    return notebook, values, output


if __name__ == "__main__":
    sys.exit(main())
