"""XML documents: byte by byte as recorded, valid whatever a job holds, and as the schemas refuse others."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import pyvo.io.uws
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tests import jobs as strategies
from tests.web.world import BASE, SCHEMAS, SHARED, START, UWS, World, sample, schema, validate
from uws_server.domain.job import ErrorSummary, Job, Parameter, Result, Workload
from uws_server.domain.phase import Phase
from uws_server.web import render_json, render_xml
from uws_server.web.addresses import Addresses
from uws_server.web.pages import job_page

covers = pytest.mark.covers
GOLDEN = Path(__file__).parents[1] / "golden" / "xml"
ADDRESSES = Addresses(BASE)


def golden(name: str, document: bytes, update: bool) -> None:
    """Hold a document against what was recorded; ``UPDATE_GOLDEN=1`` records it anew."""
    path = GOLDEN / f"{name}.xml"
    if update:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(document)
    assert path.read_bytes() == document
    validate(document)


@covers("3:xml-exact", "3:xml-schema", "UWS-01", "UWS-02", "UWS-14", "UWS-21", "UWS-30", "UWS-31", "UWS-70")
@pytest.mark.parametrize("phase", list(Phase))
def test_a_job_in_every_phase(phase: Phase, update_golden: bool) -> None:
    document = render_xml.job_document(sample(phase), ADDRESSES)
    golden(f"job-{phase.lower()}", document, update_golden)
    for instant in re.findall(rb"\d{4}-\d\d-\d\dT[^<]*", document):
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", instant)


@covers("3:xml-exact", "3:xml-schema", "UWS-34")
def test_lists_and_parts(update_golden: bool) -> None:
    everything = [sample(phase) for phase in Phase]
    golden("jobs", render_xml.job_list("stack", everything, ADDRESSES), update_golden)
    golden("jobs-empty", render_xml.job_list("stack", [], ADDRESSES), update_golden)
    completed = sample(Phase.COMPLETED)
    golden("results", render_xml.results_document(completed, ADDRESSES), update_golden)
    golden("results-empty", render_xml.results_document(sample(Phase.QUEUED), ADDRESSES), update_golden)
    golden("parameters", render_xml.parameters_document(completed, ADDRESSES), update_golden)
    minimal = Job("1" * 26, "stack", "", START)
    golden("job-minimal", render_xml.job_document(minimal, ADDRESSES), update_golden)


@covers("3:xml-exact", "UWS-01")
def test_what_clients_match_by_name_stands_literally() -> None:
    document = render_xml.job_document(sample(Phase.COMPLETED), ADDRESSES).decode()
    head = document[: document.index("<uws:jobId>")]
    assert head.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<?xml-stylesheet type="text/css" href="')
    for binding in (
        'xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0"',
        'xmlns:xlink="http://www.w3.org/1999/xlink"',
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"',
        'version="1.1"',
    ):
        assert binding in head
    assert "schemaLocation" not in document
    assert 'xlink:href="https://archive.example/uws/stack/async/' in document


@covers("UWS-02")
def test_our_own_words_have_a_namespace_of_their_own() -> None:
    root = validate(render_xml.job_document(sample(Phase.EXECUTING), ADDRESSES))
    (info,) = root.findall(f"{UWS}jobInfo")
    (ours,) = info
    assert {etree.QName(element).namespace for element in ours.iter()} == {render_xml.JOB_INFO}
    assert {etree.QName(element).localname: dict(element.attrib) or element.text for element in ours} == {
        "site": "local",
        "attempt": "1",
        "progress": {"done": "3", "of": "10"},
    }


@covers("UWS-02", "4:any-image")
def test_the_image_that_ran_is_told_with_its_digest() -> None:
    image = f"registry.example/stars@sha256:{'0' * 64}"
    job = replace(sample(Phase.EXECUTING), image=image)
    document = render_xml.job_document(job, ADDRESSES)
    validate(document)
    assert f"<image>{image}</image>".encode() in document
    assert json.loads(render_json.job_document(job, ADDRESSES))["image"] == image
    assert image in job_page(job, ADDRESSES)


@covers("UWS-02", "UWS-28")
def test_a_job_that_still_ends_says_so() -> None:
    job = replace(sample(Phase.ABORTED), workload=Workload.STOPPING)
    document = render_xml.job_document(job, ADDRESSES)
    assert b"<finalising>true</finalising>" in document
    assert b"ran longer than its execution duration" in document
    validate(document)


@covers("3:xml-exact", "UWS-22", "UWS-30")
@pytest.mark.parametrize("phase", list(Phase))
def test_pyvo_reads_it(phase: Phase) -> None:
    job = pyvo.io.uws.parse_job(io.BytesIO(render_xml.job_document(sample(phase), ADDRESSES)))
    assert (job.jobid, job.phase, job.runid) == ("1" * 26, phase.value, "survey-night-12")
    assert job.executionduration.value == 7200
    assert len(job.parameters) == 5
    if phase is Phase.COMPLETED:
        hrefs = [result.href for result in job.results]
        assert hrefs[0] == f"{BASE}/stack/async/{'1' * 26}/results/table"


_any_text = st.text(alphabet=st.characters(), max_size=60)


@covers("UWS-63", "UWS-02", "3:xml-schema", "3:bad-control-characters")
@given(
    phase=st.sampled_from(Phase),
    parameters=st.lists(
        st.builds(
            Parameter,
            st.text(
                st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs"]),
                min_size=1,
                max_size=9,
            ),
            _any_text,
        ),
        max_size=4,
    ).map(tuple),
    reason=_any_text,
    message=st.text(min_size=1, max_size=60),
    detail=_any_text,
    owner=_any_text,
    names=st.sets(st.text(min_size=1, max_size=12), max_size=3),
)
def test_whatever_a_job_holds_the_document_is_valid(
    phase: Phase,
    parameters: tuple[Parameter, ...],
    reason: str,
    message: str,
    detail: str,
    owner: str,
    names: set[str],
) -> None:
    from dataclasses import replace

    legal_names = {render_xml.legal(name) for name in names}
    job = replace(
        sample(phase),
        parameters=parameters,
        reason=reason,
        owner=owner,
        error=ErrorSummary(message, transient=True, detail=detail),
        results=tuple(Result(name, "results/x", 1, "text/plain", "00") for name in legal_names),
    )
    root = validate(render_xml.job_document(job, ADDRESSES))
    for parameter, element in zip(parameters, root.iter(f"{UWS}parameter"), strict=True):
        if not render_xml.by_reference(parameter):
            assert (element.text or "") == parameter.value
    validate(render_xml.job_list("stack", [job], ADDRESSES))


_START = '<uws:startTime xsi:nil="true"/>'
_DURATION = "<uws:executionDuration>0</uws:executionDuration>"
_RESULT = '<uws:result id="a" mime-type="b/c" xlink:type="simple" xlink:href="https://x" xsi:x="1"/>'
_BAD = {
    "no startTime": (_START, ""),
    "empty startTime": (_START, "<uws:startTime/>"),
    "nil duration": (_DURATION, '<uws:executionDuration xsi:nil="true"/>'),
    "duration of 33 bits": (_DURATION, _DURATION.replace("0", "2147483648")),
    "order": (_START, f"{_START}<uws:creationTime>2026-11-03T08:59:58.120Z</uws:creationTime>"),
    "no results": ("<uws:results/>", ""),
    "phase": (">PENDING<", ">RUNNING<"),
    "text in results": ("<uws:results/>", "<uws:results>text</uws:results>"),
    "foreign attribute": ("<uws:results/>", f"<uws:results>{_RESULT}</uws:results>"),
}


@covers("3:xml-schema", "UWS-21")
@pytest.mark.parametrize("fault", sorted(_BAD))
def test_the_schemas_refuse_what_servers_get_wrong(fault: str) -> None:
    document = render_xml.job_document(Job("1" * 26, "stack", "", START), ADDRESSES).decode()
    before, after = _BAD[fault]
    assert before in document
    broken = etree.fromstring(document.replace(before, after).encode())
    for path in (SCHEMAS / "uws.xsd", SHARED / "UWS-v1.1.xsd"):
        if path.is_file():
            assert not schema(path).validate(broken), path


@covers("3:stylesheet", "UWS-74")
def test_the_style_sheet_is_there_and_speaks_of_every_element() -> None:
    client = World().client()
    document = client.get("/stack/async").text
    address = re.search(r'<\?xml-stylesheet type="text/css" href="([^"]+)"\?>', document)
    assert address is not None
    response = client.get(address[1].removeprefix(BASE))
    assert response.mimetype == "text/css"
    for name in ("job", "jobs", "jobref", "jobId", "phase", "parameter", "result", "errorSummary", "message"):
        assert f"uws|{name}" in response.text
    assert f'"{render_xml.JOB_INFO}"' in response.text


def test_instants_of_every_job_are_rendered() -> None:
    job = strategies.job(quote=START, started=START, ended=START)
    assert render_xml.job_document(job, ADDRESSES).count(b"2026-11-03T08:59:58.120Z") == 3
