"""Execution of pages: once for their code and the library's sources, several at a time.

Sphinx reads pages in chunks of dozens, in the order of their names: all that are executed come in one, one after
another. So they are executed before anything is read, into the cache that myst-nb then takes the outputs from.
"""

import hashlib
import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import distributions
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import create_nb_reader
from sphinx.util import logging

import htf

KEPT = 4  # caches of earlier sources, a few MB each

# What takes longest begins first, so that no process is left with it in the end.
LONG = ("looking_further", "compress_cnn", "watching_rank_grow", "norm_or_rank", "networks_fit_noise", "densities")

log = logging.getLogger(__name__)


def sources() -> str:
    """Digest of all that outputs depend on besides the page: the library, what is installed, and where data lie."""
    package = Path(htf.__file__).parent
    digest = hashlib.sha256(platform.python_version().encode())
    for file in sorted(package.rglob("*.py")):
        digest.update(f"\0{file.relative_to(package)}\0".encode() + file.read_bytes())
    digest.update("\0".join(sorted(f"{each.name} {each.version}" for each in distributions())).encode())
    digest.update(os.environ.get("HTF_DATA", "").encode())
    return digest.hexdigest()[:16]


def cache(folder: Path) -> Path:
    """Folder of the outputs that belong to the present sources; the oldest others are removed."""
    own = folder / sources()
    others = sorted(folder.glob("*"), key=lambda each: each.stat().st_mtime)
    for old in [each for each in others if each != own][:-KEPT]:
        shutil.rmtree(old)
    own.mkdir(parents=True, exist_ok=True)
    own.touch()
    return own


def execute_together(app, env, docnames) -> None:
    """Execute the pages that are read and not in the cache, as many at a time as the build has processes.

    A page that fails is named with its traceback, and built without outputs.
    """
    settings = env.mystnb_config
    if settings.execution_mode != "cache":
        return
    store = get_cache(settings.execution_cache_path)
    waiting = {}
    for name in docnames:
        path = Path(env.doc2path(name))
        if path.suffix != ".md" or any(path.match(pattern) for pattern in settings.execution_excludepatterns):
            continue
        text = path.read_text(encoding="utf-8")
        if reader := create_nb_reader(str(path), env.myst_config, settings, text):
            notebook = reader.read(text)
            try:
                store.match_cache_notebook(notebook)
            except KeyError:
                waiting[name] = path, notebook
    failed = []
    with ThreadPoolExecutor(max(app.parallel, 1)) as pool:
        running = {}
        for name in sorted(waiting, key=lambda each: (*LONG, each).index(each)):
            path, notebook = waiting[name]
            options = {"timeout": settings.execution_timeout, "allow_errors": False}
            running[pool.submit(single_nb_execution, notebook, str(path.parent), **options)] = name
        for future in as_completed(running):
            name = running[future]
            path, notebook = waiting[name]
            result = future.result()
            if result.err is None:
                store.cache_notebook_bundle(
                    CacheBundleIn(notebook, str(path), data={"execution_seconds": result.time}),
                    check_validity=False,
                    overwrite=True,
                )
                log.info(f"executed {name} in {result.time:.1f} seconds")
            else:
                failed.append(path.name)
                log.warning(f"{name} failed after {result.time:.1f} seconds\n{result.exc_string}", location=name)
    if failed:
        env.mystnb_config = settings.copy(execution_excludepatterns=[*settings.execution_excludepatterns, *failed])
