"""Sphinx configuration: executed MyST notebooks, numpydoc API pages."""

import tempfile
from pathlib import Path
from uuid import uuid4

import jupyter_client

import htf


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

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "htf"

myst_enable_extensions = ["amsmath", "dollarmath"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "none"
# Class pages list methods themselves; torch.nn.Module's hundred would bury the library's own.
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
