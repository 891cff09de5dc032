"""Pages for people, to click through: what there is, the jobs of a service, one job.

The addresses of UWS answer XML to everybody, browsers included, as Java clients ask for HTML too; a style
sheet makes that readable, but gives no link to follow. So these pages have addresses of their own. They only
show; who changes jobs does it by UWS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from flask import Blueprint, Response

from job_templates.template import Template
from uws_server.domain.instants import to_iso
from uws_server.domain.job import Job, Parameter
from uws_server.service.results import listed
from uws_server.web.addresses import Addresses
from uws_server.web.answers import published
from uws_server.web.current import Current
from uws_server.web.parts import Parts

_HTML = "text/html; charset=utf-8"
_NOTHING_BUT_STYLE = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NEWEST = 100
_SHOWN = 500  # characters of a parameter's value; all of it is at its own address


def pages_blueprint(parts: Parts, current: Current) -> Blueprint:
    """``/`` and ``/ui/{service}/{id}``."""
    blueprint = Blueprint("pages", __name__)

    @blueprint.after_request
    def closed(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _NOTHING_BUT_STYLE
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @blueprint.route("/", methods=["GET"], provide_automatic_options=False)
    def home() -> Response:
        return published(services_page(parts.catalog, current.addresses()), _HTML)

    @blueprint.route("/ui/<service>", methods=["GET"], provide_automatic_options=False)
    def jobs(service: str) -> Response:
        template = parts.catalog.get(service)
        newest = parts.jobs.select(current.caller(), service, last=_NEWEST)
        return Response(jobs_page(template, newest, current.addresses()), content_type=_HTML)

    @blueprint.route("/ui/<service>/<job_id>", methods=["GET"], provide_automatic_options=False)
    def job(service: str, job_id: str) -> Response:
        found = parts.jobs.get(current.caller(), service, job_id)
        return Response(job_page(found, current.addresses()), content_type=_HTML)

    return blueprint


def services_page(templates: Iterable[Template], addresses: Addresses) -> str:
    """The services."""
    items = "\n".join(
        f"<li><h2>{escape(template.title)}</h2>\n<p>{escape(template.description)}</p>\n"
        f"<p>{_link(addresses.page(template.name), 'Jobs')} · "
        f"{_link(addresses.service(template.name) + '/capabilities', 'Capabilities')} · "
        f"<code>{escape(addresses.jobs(template.name))}</code></p></li>"
        for template in templates
    )
    return _page(
        "Batch services",
        '<p>Each service takes jobs by <a href="https://www.ivoa.net/documents/UWS/">IVOA UWS 1.1</a>.</p>\n'
        f"<ul>\n{items}\n</ul>\n"
        f"<p>{_link(addresses.base + '/services', 'Services and their parameters as JSON')} · "
        f"{_link(addresses.base + '/openapi.json', 'OpenAPI')}</p>",
        addresses,
    )


def jobs_page(template: Template, jobs: Iterable[Job], addresses: Addresses) -> str:
    """The newest jobs of a service."""
    rows = [
        (
            _link(addresses.page(template.name, job.id), job.id),
            job.phase.value,
            escape(job.run_id),
            to_iso(job.created),
        )
        for job in jobs
    ]
    return _page(
        template.title,
        f"<p>{escape(template.description)}</p>\n<h2>The newest jobs</h2>\n"
        + (_table(("Job", "Phase", "Run id", "Created"), rows) if rows else "<p>There are none.</p>")
        + f"\n<p>{_link(addresses.base + '/', 'All services')} · "
        f"{_link(addresses.jobs(template.name), 'The list as UWS has it')}</p>",
        addresses,
    )


def job_page(job: Job, addresses: Addresses) -> str:
    """One job, with its results and parameters."""
    address = addresses.job(job.service, job.id)
    results = [
        (
            _link(addresses.result(job.service, job.id, result.id), result.id),
            escape(result.media_type),
            "" if result.size is None else f"{result.size} bytes",
        )
        for result in listed(job)
    ]
    parameters = [(escape(one.name), _value(job, one, addresses)) for one in job.parameters]
    return _page(
        f"Job {job.id}",
        _table((), _properties(job, address))
        + (f"\n<h2>Results</h2>\n{_table(('Result', 'Type', 'Size'), results)}" if results else "")
        + (f"\n<h2>Parameters</h2>\n{_table((), parameters)}" if parameters else "")
        + f"\n<p>{_link(addresses.page(job.service), 'Jobs of this service')} · "
        f"{_link(address, 'This job as UWS has it')}</p>",
        addresses,
    )


def _properties(job: Job, address: str) -> Iterator[tuple[str, str]]:
    yield "Phase", job.phase.value
    if job.error is not None:
        detail = f" ({_link(address + '/error', 'all of it')})" if job.error.detail else ""
        yield "Error", escape(job.error.message) + detail
    for name, text in (
        ("Why", job.reason),
        ("Run id", job.run_id),
        ("Owner", job.owner),
        ("Site", job.site),
        ("Image", job.image),
    ):
        if text:
            yield name, escape(text)
    if job.progress is not None:
        yield "Progress", f"{job.progress[0]} of {job.progress[1]}"
    for name, at in (
        ("Created", job.created),
        ("Started", job.started),
        ("Ended", job.ended),
        ("Kept until", job.destruction),
    ):
        if at is not None:
            yield name, to_iso(at)


def _value(job: Job, parameter: Parameter, addresses: Addresses) -> str:
    if parameter.upload is None and len(parameter.value) <= _SHOWN:
        return escape(parameter.value)
    return _link(addresses.parameter(job.service, job.id, parameter.name), parameter.value[:_SHOWN])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{titles}</tr>\n{body}\n</table>" if titles else f"<table>\n{body}\n</table>"


def _link(address: str, text: str) -> str:
    return f'<a href="{escape(address)}">{escape(text)}</a>'


def _page(title: str, body: str, addresses: Addresses) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f'<link rel="stylesheet" href="{escape(addresses.base)}/static/page.css"></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
