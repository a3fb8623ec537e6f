"""tensorly-torch's own test functions, from the installed package, with HT in the place of its factorizations."""

import importlib.util
import itertools
import types
import warnings
from pathlib import Path

import pytest
import tensorly as tl
import torch

if importlib.util.find_spec("tltorch") is None:
    pytest.skip("tensorly-torch is not installed", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import htf.tltorch
import tltorch

ROOT = Path(tltorch.__file__).parent
# Tests with lists of factorizations, and what stands for HT in the place of the names there.
FILES = {
    "factorized_tensors/tests/test_factorizations.py": {
        "test_FactorizedTensor": ["HT"],
        "test_TensorizedMatrix": ["HT"],
        "test_transduction": ["HT"],
        "test_ComplexFactorizedTensor": ["ComplexHT"],
    },
    "factorized_layers/tests/test_factorized_convolution.py": {
        # Other implementations tltorch chooses by its own classes.
        "test_single_conv": [("HT", "reconstructed")]
    },
    "factorized_layers/tests/test_factorized_embedding.py": {"test_FactorizedEmbedding": ["HT"]},
    "factorized_layers/tests/test_factorized_linear.py": {"test_FactorizedLinear": ["HT"]},
    "factorized_layers/tests/test_trl.py": {"test_TRL_from_linear": ["HT"]},
}
# The same names in the tables within the tests.
TABLES = {
    "dict(CP=CPTensor,": "dict(HT=__import__('htf.tltorch').tltorch.HTFactorized, CP=CPTensor,",
    "dict(CP=CPTensorized,": "dict(HT=__import__('htf.tltorch').tltorch.HTTensorized, CP=CPTensorized,",
}


def load(file):
    source = (ROOT / file).read_text()
    for old, new in TABLES.items():
        source = source.replace(old, new)
    module = types.ModuleType(file)
    module.__package__ = "tltorch." + str(Path(file).parent).replace("/", ".")
    with htf.tltorch._backend_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source, str(ROOT / file), "exec"), module.__dict__)
    return module


def calls():
    for file, functions in FILES.items():
        if not (ROOT / file).is_file():
            continue
        module = load(file)
        for name, values in functions.items():
            function = getattr(module, name)
            marks = [mark.args for mark in function.pytestmark if mark.name == "parametrize"]
            axes = [(names, values if names.startswith("factorization") else given) for names, given in marks]
            for choice in itertools.product(*(given for _, given in axes)):
                arguments = {}
                for (names, _), value in zip(axes, choice, strict=True):
                    keys = [key.strip() for key in names.split(",")]
                    arguments |= dict(zip(keys, value if len(keys) > 1 else [value], strict=True))
                yield pytest.param(function, arguments, id=f"{name}-{'-'.join(map(str, arguments.values()))}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("function", "arguments"), list(calls()))
def test_of_theirs(function, arguments):
    torch.manual_seed(0)
    with tl.backend_context("pytorch", local_threadsafe=True):
        function(**arguments)
