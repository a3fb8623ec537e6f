"""Data sets of R's mlbench, from Debian's package of it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGE = "r-cran-mlbench"
# Of mlbench 2.1, where the package has them below usr/lib/R/site-library/mlbench/data.
SHA256 = {
    "DNA.rda": "df941ad89a49f705a29bf38e52c91dc34029539cedb13fa24f803f1224278c9e",
    "Satellite.rda": "29f8cf9bb1bc51b769d694c9caf740fd1c36ed6a7c87603edf5985962e330f64",
    "LetterRecognition.rda": "967a1a3e10b548d7269cbe50182bcecd6365cc58ea07638bbc34c51f17f34f1d",
}


def fetch_mlbench(folder: Path) -> None:
    """Put the files into a folder, by ``apt-get download`` and ``dpkg-deb``; nothing is installed.

    Raises
    ------
    SystemExit
        Where apt-get or dpkg-deb is not there, or fails.
    ValueError
        For a file with another content than that of mlbench 2.1.
    """
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SystemExit(
                f"{program} is not there; take the files {', '.join(SHA256)} from R's package mlbench, "
                "and name their folder by --mlbench"
            )
    with tempfile.TemporaryDirectory() as there:
        for command in (["apt-get", "download", PACKAGE], ["sh", "-c", f"dpkg-deb -x {PACKAGE}_*.deb unpacked"]):
            if subprocess.run(command, cwd=there, check=False).returncode:
                raise SystemExit(f"{' '.join(command)} failed; `apt-get update` may be needed first")
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHA256:
            (found,) = Path(there, "unpacked").rglob(name)
            check(found)
            shutil.copyfile(found, folder / name)


def check(path: Path) -> Path:
    """The path of a file whose content is that of mlbench 2.1; a ValueError where it is another."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[path.name]:
        raise ValueError(f"{path} has the SHA-256 {found}; expected {SHA256[path.name]}, that of mlbench 2.1")
    return path
