"""Inputs that cannot be had: the job fails before its code starts, and says which and why."""

from __future__ import annotations

import hashlib

import pytest

from tests.kubernetes.site import Site
from tests.kubernetes.sources import CONTENT


def refused(site: Site, url: str) -> str:
    """The message of a job that fails for this input, and whose code never starts."""
    job = site.shell("echo never", input=url)
    seen = site.ended(job, "ERROR")
    assert seen["errorSummary"]["type"] == "fatal"
    assert seen["attempt"] == 1
    assert seen["startTime"] is None
    site.clear(job, {})
    return str(seen["errorSummary"]["message"])


@pytest.mark.covers("4:fault-input")
def test_an_input_arrives_as_it_is(site: Site) -> None:
    checksum = hashlib.sha256(CONTENT).hexdigest()
    url = f"{site.sources.url}/file.csv#sha256={checksum}"
    job = site.shell(
        "cp $UWS_INPUTS/input/file.csv $UWS_OUTPUTS/; touch $UWS_INPUTS/x || echo read only", input=url
    )
    site.ended(job, "COMPLETED")
    assert site.result(job, "result") == CONTENT
    assert site.result(job, "stdout") == b"read only\n"
    site.clear(job)


@pytest.mark.covers("4:fault-input")
@pytest.mark.parametrize("answer", ["404 Not Found", pytest.param("403 Forbidden", marks=pytest.mark.long)])
def test_an_input_that_is_not_to_be_had_is_named(site: Site, answer: str) -> None:
    name = answer[:3]
    url = f"{site.sources.url}/status/{name}"
    message = f"Input 'input/{name}' could not be had from {url}: the server answered {answer}."
    assert refused(site, url) == message


@pytest.mark.covers("4:fault-input")
def test_an_input_with_the_wrong_checksum_is_refused(site: Site) -> None:
    url = f"{site.sources.url}/file.csv"
    message = refused(site, f"{url}#sha256={'0' * 64}")
    assert message == (
        f"Input 'input/file.csv' from {url} has the wrong checksum: sha256 "
        f"{hashlib.sha256(CONTENT).hexdigest()} instead of {'0' * 64}."
    )


@pytest.mark.covers("4:fault-input")
@pytest.mark.long
@pytest.mark.parametrize("name", ["endless", "large"])
def test_an_input_beyond_its_limit_is_refused(site: Site, name: str) -> None:
    url = f"{site.sources.url}/{name}"
    assert refused(site, url) == f"Input 'input/{name}' from {url} is larger than its limit of 1048576 bytes."


@pytest.mark.covers("4:fault-input")
@pytest.mark.long
def test_an_input_from_the_metadata_address_is_refused(site: Site) -> None:
    message = refused(site, "http://169.254.169.254/latest/meta-data/")
    assert "its address is not one that jobs may reach" in message
