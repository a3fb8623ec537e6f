"""Inventories of other projects' documentation, written here so that a build needs no network.

A line of an inventory says where a name is documented. Each project has a rule for that; the names are those that
docstrings, types of arguments and tutorials mention.
"""

import zlib
from pathlib import Path

PYTHON = {
    "library/pathlib.html": "class pathlib.Path",
    "library/os.html": "class os.PathLike",
    "library/fractions.html": "class fractions.Fraction",
    "library/dataclasses.html": "function dataclasses.replace",
    "library/collections.abc.html": "class collections.abc.Callable",
    "library/typing.html": "class typing.NamedTuple",
    "library/functions.html": (
        "function callable function enumerate function max function min function print function range function sum "
        "function zip class bool class float class int"
    ),
    "library/stdtypes.html": "class dict class list class tuple class str",
    "library/constants.html": "data None data True data False",
    "library/exceptions.html": (
        "exception ValueError exception TypeError exception KeyboardInterrupt exception FileNotFoundError "
        "exception BlockingIOError exception ImportError exception MemoryError exception RuntimeWarning"
    ),
}
NUMPY = (
    "arange argsort array asarray concatenate cumsum delete divmod einsum exp eye full linalg.det linalg.inv "
    "linalg.norm linspace load log maximum mean meshgrid ones outer prod save sin sqrt stack sum tanh tensordot "
    "vdot zeros memmap ndarray"
)
TORCH = (
    "arange cartesian_prod cat cdist compile exp export.export from_numpy func.grad linalg.det linalg.matrix_norm "
    "linalg.pinv linalg.qr linalg.solve linalg.svdvals logspace manual_seed nn.functional.cross_entropy "
    "nn.functional.one_hot no_grad ones rand randint randn randperm set_default_device set_num_threads tensor "
    "zeros"
)
TORCH_CLASSES = (
    "Generator nn.BatchNorm2d nn.Conv1d nn.Conv2d nn.Conv3d nn.ConvTranspose2d nn.Embedding nn.Flatten nn.GRU "
    "nn.LSTM nn.Linear nn.MaxPool2d nn.Module nn.MultiheadAttention nn.ReLU nn.Sequential optim.Adam optim.SGD "
    "optim.lr_scheduler.LinearLR"
)
TENSORLY = (
    "decomposition.parafac decomposition.tensor_train decomposition.tucker norm random.random_cp random.random_tt "
    "random.random_tucker"
)
SKLEARN = "base.clone model_selection.GridSearchCV pipeline.Pipeline mixture.GaussianMixture"


def lines(name: str):
    """Lines of the inventory of a project: name, kind, priority, address and what is shown."""
    if name == "python":
        for page, entries in PYTHON.items():
            words = entries.split()
            yield from (
                f"{each} py:{kind} 1 {page}#{each} -" for kind, each in zip(words[::2], words[1::2], strict=True)
            )
        yield "bltin-boolean-values std:label -1 library/stdtypes.html#boolean-type-bool Boolean type"
        yield from (f"{each} std:term -1 glossary.html#term-{each} -" for each in ("iterable", "sequence"))
    elif name == "numpy":
        for each in NUMPY.split():
            kind = "class" if each in ("memmap", "ndarray") else "function"
            yield f"numpy.{each} py:{kind} 1 reference/generated/numpy.{each}.html#numpy.{each} -"
        yield "numpy.random.Generator py:class 1 reference/random/generator.html#numpy.random.Generator -"
        yield "numpy.random.default_rng py:function 1 reference/random/generator.html#numpy.random.default_rng -"
    elif name == "torch":
        yield "torch.Tensor py:class 1 tensors.html#torch.Tensor -"
        for kind, names in ("function", TORCH), ("class", TORCH_CLASSES):
            yield from (
                f"torch.{each} py:{kind} 1 generated/torch.{each}.html#torch.{each} -" for each in names.split()
            )
    elif name == "tensorly":
        for each in TENSORLY.split():
            yield f"tensorly.{each} py:function 1 modules/generated/tensorly.{each}.html#tensorly.{each} -"
    elif name == "sklearn":
        for each in SKLEARN.split():
            kind = "function" if each.endswith("clone") else "class"
            yield f"sklearn.{each} py:{kind} 1 modules/generated/sklearn.{each}.html#sklearn.{each} -"


ADDRESSES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "tensorly": "https://tensorly.org/stable/",
    "sklearn": "https://scikit-learn.org/stable/",
}

HEAD = """\
# Sphinx inventory version 2
# Project: {}
# Version:
# The remainder of this file is compressed using zlib.
"""


def write(folder: Path) -> dict[str, tuple[str, str]]:
    """Write the inventories; return what `intersphinx_mapping` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ADDRESSES:
        body = "".join(f"{line}\n" for line in lines(name)).encode()
        (folder / f"{name}.inv").write_bytes(HEAD.format(name).encode() + zlib.compress(body))
    return {name: (address, str(folder / f"{name}.inv")) for name, address in ADDRESSES.items()}
