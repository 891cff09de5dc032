"""The least that Flask and Redis cost: one transaction and a redirect, one read and a document.

No UWS, no checks, no limits. `RPORT` names the Redis. Run by gunicorn as the server itself is.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import Any

import redis
from flask import Flask, Response, request

app = Flask(__name__)
_redis = redis.Redis(
    host="127.0.0.1", port=int(os.environ["RPORT"]), max_connections=200, decode_responses=True
)


@app.post("/jobs")
def create() -> Response:
    """Store the form, and say where it is."""
    job_id = uuid.uuid4().hex
    now = time.time()
    fields: dict[Any, Any] = {"jobId": job_id, "phase": "PENDING", "created": repr(now), "owner": "anonymous"}
    fields.update({f"p:{name}": value for name, value in request.form.items()})
    with _redis.pipeline(transaction=True) as pipe:
        pipe.hset(f"job:{job_id}", mapping=fields)
        pipe.zadd("jobs", {job_id: now})
        pipe.lpush("rq:queue:default", job_id)
        pipe.execute()
    return Response(status=303, headers={"Location": f"/jobs/{job_id}"})


@app.get("/jobs/<job_id>")
def read(job_id: str) -> Response:
    """What was stored, as a document put together from strings."""
    fields: dict[Any, Any] = _redis.hgetall(f"job:{job_id}")
    if not fields:
        return Response(status=404)
    parameters = "".join(
        f'<uws:parameter id="{name[2:]}">{value}</uws:parameter>'
        for name, value in fields.items()
        if name.startswith("p:")
    )
    document = (
        '<?xml version="1.0" encoding="UTF-8"?><uws:job xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0"'
        ' version="1.1">'
        f"<uws:jobId>{job_id}</uws:jobId><uws:ownerId>{fields['owner']}</uws:ownerId>"
        f"<uws:phase>{fields['phase']}</uws:phase><uws:creationTime>{fields['created']}</uws:creationTime>"
        f"<uws:parameters>{parameters}</uws:parameters></uws:job>"
    )
    return Response(document, mimetype="text/xml")
