"""Settings: where they come from, which wins, and what is said of wrong ones."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from uws_server.config import KEYS_OF_OTHERS, load
from uws_server.config_file import BadConfig
from uws_server.setting_names import keys
from uws_server.settings import Settings


def _refusal(
    file: Path | None = None, /, environment: dict[str, str] | None = None, **options: object
) -> str:
    with pytest.raises(BadConfig) as refused:
        load(file, environment or {}, {key.replace("__", "."): value for key, value in options.items()})
    return str(refused.value)


def _file(directory: Path, text: str, name: str = "uws.yaml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_defaults_serve_one_machine() -> None:
    settings = load(environment={})
    assert settings.web.host == "127.0.0.1"
    assert settings.redis.durable
    assert list(settings.sites) == ["local"]
    assert settings.objects_url == (Path.cwd() / "uws-data" / "objects").as_uri()


def test_file_environment_and_options_win_in_that_order(tmp_path: Path) -> None:
    file = _file(tmp_path, "web:\n  port: 1001\n  workers: 3\n  wait_seconds: 20\n")
    settings = load(file, {"UWS_WEB__PORT": "1002", "UWS_WEB__WORKERS": "4"}, {"web.port": 1003})
    assert (settings.web.port, settings.web.workers, settings.web.wait_seconds) == (1003, 4, 20)


def test_the_environment_names_the_file_and_an_option_another(tmp_path: Path) -> None:
    one, two = _file(tmp_path, "data: /one", "1.yaml"), _file(tmp_path, "data: /two", "2.yaml")
    assert load(environment={"UWS_CONFIG": str(one)}).data == Path("/one")
    assert load(two, {"UWS_CONFIG": str(one)}).data == Path("/two")


def test_yaml_toml_and_json_say_the_same(tmp_path: Path) -> None:
    expected = load(environment={}, options={"web.port": 9, "sites.far.jobs": 2, "limits.body": "2 MiB"})
    texts = {
        "a.yaml": "web: {port: 9}\nsites:\n  far: {jobs: 2}\nlimits: {body: 2 MiB}\n",
        "a.toml": '[web]\nport = 9\n[sites.far]\njobs = 2\n[limits]\nbody = "2 MiB"\n',
        "a.json": '{"web": {"port": 9}, "sites": {"far": {"jobs": 2}}, "limits": {"body": "2 MiB"}}',
    }
    for name, text in texts.items():
        assert load(_file(tmp_path, text, name), {}) == expected


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    settings = load(environment={}, options={"sites.far.memory": "3 GiB", "templates.directories": ["/t"]})
    assert load(_file(tmp_path, settings.to_json()), {}) == settings


def test_lists_and_maps_are_yaml_in_the_environment() -> None:
    settings = load(environment={"UWS_TEMPLATES__DIRECTORIES": "[/a, /b]", "UWS_SITES": "{x: {jobs: 7}}"})
    assert settings.templates.directories == (Path("/a"), Path("/b"))
    assert settings.sites["x"].jobs == 7


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load(environment={}).web.port = 1


@pytest.mark.covers("3:config-unknown-key")
@pytest.mark.parametrize(
    ("text", "line", "unknown", "nearest"),
    [
        ("web:\n  prot: 3\n", 2, "web.prot", "did you mean web.port?"),
        ("\n\nport: 3\n", 3, "port", "did you mean web.port?"),
        ("sites:\n  far:\n    # room\n    job: 2\n", 4, "sites.far.job", "did you mean sites.far.jobs?"),
        ("jobs: {atempts: 1}\n", 1, "jobs.atempts", "did you mean jobs.attempts?"),
        ("durable: false\n", 1, "durable", "did you mean redis.durable?"),
        ("xyzzy: 1\n", 1, "xyzzy", "there are data, secret_file, web"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one(
    tmp_path: Path, text: str, line: int, unknown: str, nearest: str
) -> None:
    file = _file(tmp_path, text)
    assert _refusal(file).startswith(f"unknown setting {unknown} (in {file}, line {line}); {nearest}")


@pytest.mark.covers("3:config-unknown-key")
def test_an_unknown_key_of_toml_is_named_with_its_line(tmp_path: Path) -> None:
    file = _file(tmp_path, "data = '/d'\n[web]\n\nwrokers = 3\n", "uws.toml")
    assert _refusal(file) == f"unknown setting web.wrokers (in {file}, line 4); did you mean web.workers?"


@pytest.mark.covers("3:config-unknown-key")
def test_an_unknown_key_of_the_environment_is_named() -> None:
    said = _refusal(environment={"UWS_WEB__PROT": "1"})
    assert said == "unknown setting web.prot (in the environment's UWS_WEB__PROT); did you mean web.port?"
    assert "did you mean web.port?" in _refusal(environment={"UWS_WEB_PORT": "80"})


@pytest.mark.covers("3:config-unknown-key")
def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    said = _refusal(_file(tmp_path, "web: {prot: 1}\njobs: {attempts: none}\n")).splitlines()
    assert len(said) == 2
    assert any("jobs.attempts" in line and "line 2" in line and "integer" in line for line in said)


def test_names_that_are_no_settings_are_left_alone() -> None:
    cluster = {
        "UWS_WEB_SERVICE_HOST": "10.0.0.1",
        "UWS_WEB_PORT": "tcp://10.0.0.1:80",
        "UWS_WEB_PORT_80_TCP": "x",
    }
    load(environment={"UWS_JOB_ID": "0", "UWS_URL": "http://localhost", "OTHER": "1", **cluster})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("web: {port: 1}\nweb: {port: 2}\n", "line 2: web is given twice, first on line 1"),
        ("a: [\n", "line 2"),
        ("- a\n- b\n", "holds no settings"),
        ("web: 3\n", "web (in"),
        ("web: {base_url: 'ftp://x'}\n", "web.base_url"),
        ("sites: {}\n", "sites"),
        ("sites: {Bad_Name: {}}\n", "sites.Bad_Name"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    assert said in _refusal(_file(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in _refusal(tmp_path / "none.yaml")
    assert "no YAML" in _refusal(environment={"UWS_SITES": "{x: ["})
    assert "no section" in _refusal(_file(tmp_path, "web: 3\n"), {"UWS_WEB__PORT": "1"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_nobody_logs_in_on_loopback(host: str) -> None:
    assert load(environment={}, options={"web.host": host}).web.host == host


@pytest.mark.covers("4:probes")
def test_the_operator_has_a_port_alone() -> None:
    said = _refusal(None, operator__port=9090, web__port=9090, web__host="127.0.0.2")
    assert "operator.port is 9090 and web.port too" in said
    assert load(environment={}, options={"operator.port": 9090, "web.port": 9091}).operator.port == 9090
    assert load(environment={}, options={"web.port": 0}).operator.port == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "archive.example"])
def test_listening_elsewhere_needs_a_word(host: str) -> None:
    assert "auth.anonymous: anywhere" in _refusal(web__host=host)
    load(environment={}, options={"web.host": host, "auth.anonymous": "anywhere"})


@pytest.mark.parametrize("host", ["archive.example", "192.0.2.1:8080", "[2001:db8::1]:8080", "0.0.0.0"])
def test_a_proxy_in_front_needs_a_word(host: str) -> None:
    """Listening on loopback says nothing of who comes by the proxy."""
    url = f"https://{host}/uws"
    said = _refusal(web__base_url=url)
    assert url in said
    assert "auth.anonymous: anywhere" in said
    load(environment={}, options={"web.base_url": url, "auth.anonymous": "anywhere"})


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
def test_a_proxy_of_ones_own_machine_needs_none(host: str) -> None:
    settings = load(environment={}, options={"web.base_url": f"http://{host}/uws"})
    assert settings.own_machine


def test_a_store_in_memory_is_none_for_many_processes() -> None:
    said = _refusal(objects__url="memory:")
    assert "objects.url" in said
    assert "another store in each process" in said


def test_agents_find_the_server() -> None:
    def url(**options: object) -> str:
        everywhere = {"auth.anonymous": "anywhere"}
        return load(environment={}, options=everywhere | {f"web.{k}": v for k, v in options.items()}).own_url

    assert url(port=81) == "http://127.0.0.1:81"
    assert url(host="0.0.0.0", port=81) == "http://127.0.0.1:81"
    assert url(host="::", port=81) == "http://[::1]:81"
    assert url(agent_url="https://inside.example/uws/") == "https://inside.example/uws"


def test_the_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = load(environment={}, options={"data": tmp_path / "new"})
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(settings.secret())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert len(found[0]) == 64
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret"]
    assert (tmp_path / "new" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, "s" * 40, "secret")
    settings = load(environment={}, options={"secret_file": file})
    file.chmod(0o644)
    with pytest.raises(BadConfig, match="chmod 600"):
        settings.secret()
    file.chmod(0o600)
    assert settings.secret() == b"s" * 40
    file.write_text("short")
    with pytest.raises(BadConfig, match="shorter"):
        settings.secret()


def test_every_key_is_described() -> None:
    from scripts.describe_settings import document

    text = document(Settings)
    for key in keys():
        row, heading = f"| `{key[-1]}` |", f"\n## `{'.'.join(key)}"
        assert row in text or heading in text, ".".join(key)
    assert "None" not in text


def test_the_document_is_up_to_date() -> None:
    from scripts.describe_settings import PATH, document

    assert PATH.read_text() == document(Settings), "run python -m scripts.describe_settings"


def test_the_example_is_right() -> None:
    settings = load(Path(__file__).parents[2] / "deploy" / "uws.example.yaml", {})
    assert settings.sites["local"].memory == 64 * 1024**3


def test_networks_are_checked() -> None:
    options = {"sites.local.deny_networks": ["10.0.0.0/8", "fd00::/8"]}
    assert load(environment={}, options=options).sites["local"].deny_networks == ("10.0.0.0/8", "fd00::/8")
    assert "10.0.0.0/99" in _refusal(environment={"UWS_SITES__LOCAL__DENY_NETWORKS": "[10.0.0.0/99]"})


def test_what_the_client_reads_from_the_environment_does_not_refuse_the_start() -> None:
    """README has scientists export UWS_SERVER in the shell from which they may start a server too."""
    texts = (path.read_text() for path in (Path(__file__).parents[2] / "uws_client").glob("*.py"))
    read = {name for text in texts for name in re.findall(r"UWS_[A-Z_]+", text)}
    assert "UWS_SERVER" in read
    assert read <= KEYS_OF_OTHERS


@pytest.mark.covers("3:lost-attempt")
def test_a_claim_in_flight_can_never_count_as_lost() -> None:
    options = {"sites.local.lost_after": 60, "jobs.claim_seconds": 60}
    with pytest.raises(BadConfig, match=r"sites\.local\.lost_after is 60 and jobs\.claim_seconds 60"):
        load(environment={}, options=options)
    assert load(environment={}, options={**options, "jobs.claim_seconds": 59}).sites["local"].lost_after == 60


@pytest.mark.parametrize(
    ("registries", "said"),
    [
        ({"registry.example:99999": {}}, "'registry.example:99999' is at no port from 1 to 65535"),
        ({"registry.example:0": {}}, "'registry.example:0' is at no port from 1 to 65535"),
        ({"r": {"url": "http://r:x"}}, "'http://r:x' is at no port from 1 to 65535"),
        ({"r": {"url": "http://r:99999"}}, "'http://r:99999' is at no port from 1 to 65535"),
        ({"r": {"url": "http://[::1"}}, "'http://[::1' names no host"),
        ({"r": {"url": "http://:5000"}}, "'http://:5000' names no host"),
    ],
)
def test_a_registry_that_nobody_can_reach_is_refused(registries: dict[str, object], said: str) -> None:
    kubernetes = {"agent_url": "https://uws.example", "agent_image": "agent:1", "registries": registries}
    site = {"runner": "kubernetes", "kubernetes": kubernetes}
    assert said in _refusal(None, {}, sites={"cluster": site})


def test_registries_are_named_with_and_without_a_port() -> None:
    registries = {
        "registry.example": {"url": "http://[::1]:5000/"},
        "localhost:65535": {},
        "r": {"url": "http://r"},
    }
    kubernetes = {
        "agent_url": "https://uws.example",
        "agent_image": "agent:1",
        "registries": registries,
        "default_registry": "r:5000/team",
    }
    settings = load(
        environment={}, options={"sites": {"cluster": {"runner": "kubernetes", "kubernetes": kubernetes}}}
    )
    assert settings.sites["cluster"].kubernetes.registries.keys() == registries.keys()
