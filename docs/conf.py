"""Sphinx configuration: executed MyST notebooks, numpydoc API pages."""

import htf

project = "htf"
author = "the htf developers"
copyright = "2026, the htf developers"
release = version = htf.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "results/README.md"]
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
