"""Sphinx configuration: executed MyST notebooks, numpydoc API pages."""

import functools
import importlib
import inspect
import os
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path
from uuid import uuid4

import jupyter_client
from numpydoc.xref import DEFAULT_LINKS
from sphinx.ext.autosummary import autosummary_toc

import htf
from htf.plotting import style

sys.path.insert(0, str(Path(__file__).parent))
import executed
import inventories
from logo import logo


class OwnSockets(jupyter_client.AsyncKernelManager):
    """Talks to its kernel over files of its own.

    TCP ports are chosen before the kernel takes them: two that start at once may be given the same one, and then one of
    them ends and the build waits for it without end.
    """

    def __init__(self, **options):
        own = Path(tempfile.gettempdir()) / f"kernel-{uuid4()}.json"
        super().__init__(transport="ipc", connection_file=str(own), **options)


# What notebooks are executed with; myst_nb has no setting for it.
jupyter_client.AsyncKernelManager = OwnSockets

project = "htf"
author = "the htf developers"
copyright = "2026, the htf developers"
release = version = htf.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_codeautolink",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "htf"
html_static_path = ["_static"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
built = Path(__file__).parent / "_build"
nb_execution_mode = "cache"
nb_execution_cache_path = str(executed.cache(built / "executed"))
nb_execution_timeout = 300
nb_merge_streams = True

# A place of its own for each build would be a change of the settings, after which Sphinx reads all pages again.
drawn = built / "drawn"
intersphinx_mapping = inventories.write(drawn)
(drawn / "logo.svg").write_text(logo())
# Pages draw in the style of the library's own figures.
(drawn / "matplotlibrc").write_text(style.matplotlibrc())
os.environ["MATPLOTLIBRC"] = str(drawn / "matplotlibrc")
html_logo = html_favicon = str(drawn / "logo.svg")

# Formulas are drawn without a network: one file of MathJax is copied from the package; its SVG output needs no fonts.
(mathjax,) = (file for file in files("sphinx-mathjax-offline") or () if file.name == "tex-svg-full.js")
html_static_path.append(str(mathjax.locate()))
mathjax_path = mathjax.name

codeautolink_concat_default = True
copybutton_exclude = ".linenos, .gp, .go"


def described(cls: type, name: str, value: object) -> bool:
    if (name.startswith("_") and name != "__call__") or (name.startswith("set_") and name.endswith("_request")):
        return False
    kinds = property | staticmethod | classmethod | functools.cached_property
    return (isinstance(value, kinds) or inspect.isfunction(value)) and bool(inspect.getdoc(value))


def own_members(cls: type) -> list[str]:
    """Public members that a class has from this library, in the order of their definition.

    torch.nn.Module and scikit-learn's estimators bring a hundred more, which would bury them.
    """
    own = [each for each in cls.__mro__ if each.__module__.partition(".")[0] == "htf"]
    return list(
        dict.fromkeys(name for each in own for name, value in vars(each).items() if described(each, name, value))
    )


def public_classes():
    for room in ("htf", *(f"htf.{name}" for name in ROOMS)):
        for name, value in inspect.getmembers(importlib.import_module(room), inspect.isclass):
            yield f"{room}.{name}", value


ROOMS = (
    *(
        "arrangement",
        "cli",
        "datasets",
        "decomposition",
        "dynamics",
        "engine",
        "jobs",
        "models",
        "nn",
        "nn.init",
        "plotting",
    ),
    *("probes", "ranks", "regularizers", "surgery", "tensors", "training", "training.objectives"),
)

CLASSES = dict(public_classes())

autosummary_generate = True
autosummary_context = {"own_members": {name: own_members(cls) for name, cls in CLASSES.items()}}
autodoc_typehints = "none"
default_role = "autolink"
toc_object_entries_show_parents = "hide"
html_css_files = ["style.css"]
autodoc_member_order = "bysource"
# Class pages list methods themselves.
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# Types of arguments are links where they are classes of the library, of torch or of Python; arrays need not be NumPy's.
for word in ("array", "array_like", "array-like", "contextmanager", "generator", "namedtuple", "numpy", "scalar"):
    DEFAULT_LINKS.pop(word)
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {
    **{name.rpartition(".")[2]: name for name in reversed(CLASSES)},
    "Tensor": "torch.Tensor",
    "torch.Tensor": "torch.Tensor",
    "torch.Generator": "torch.Generator",
    "ndarray": "numpy.ndarray",
    "Module": "torch.nn.Module",
    "path": "os.PathLike",
    "callable": "collections.abc.Callable",
}


def setup(app):
    app.connect("env-before-read-docs", executed.execute_together)
    app.connect("doctree-read", leave_out_of_navigation, priority=100)  # before Sphinx collects tables of contents


def leave_out_of_navigation(app, doctree):
    """Pages of single names are reached from tables and by search: the theme draws all navigation on every page."""
    for node in list(doctree.findall(autosummary_toc)):
        node.parent.remove(node)
