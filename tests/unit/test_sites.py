"""What the settings of a site mean for its runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runners.local import configured
from runners.local.configured import local_settings
from runners.local.isolation import Isolation, Mode
from runners.sites import isolation, site
from uws_server.config import load
from uws_server.config_file import BadConfig
from uws_server.settings import Settings

LOOPBACK = ("127.0.0.0/8", "::1/128")


def settings_of(**options: Any) -> Any:
    settings = load(environment={}, options={key.replace("__", "."): value for key, value in options.items()})
    return local_settings(settings, site(settings, "local"))


@pytest.mark.covers("3:agent-stage-in")
def test_no_file_of_the_machine_is_an_input_unless_the_site_says_so(tmp_path: Path) -> None:
    assert settings_of().file_inputs == ()
    given = settings_of(sites__local__file_inputs=["/data/survey", "here"], data=str(tmp_path))
    assert given.file_inputs == (Path("/data/survey"), Path("here").absolute())
    assert tmp_path in given.hidden


def test_loopback_is_a_source_only_for_those_who_are_there_anyway() -> None:
    assert settings_of().deny_networks == ()
    assert settings_of(web__host="::1").deny_networks == ()
    assert settings_of(sites__local__deny_networks=["10.0.0.0/8"]).deny_networks == ("10.0.0.0/8",)
    public = {"web__host": "0.0.0.0", "auth__anonymous": "anywhere"}
    assert settings_of(**public).deny_networks == LOOPBACK
    # Behind a proxy whoever sends a job is somewhere else, though we listen on loopback.
    proxied = {"web__base_url": "https://archive.example/uws", "auth__anonymous": "anywhere"}
    assert settings_of(**proxied).deny_networks == LOOPBACK
    assert settings_of(auth__anonymous="anywhere").deny_networks == LOOPBACK
    given = settings_of(**public, sites__local__deny_networks=["10.0.0.0/8"])
    assert given.deny_networks == ("10.0.0.0/8", *LOOPBACK)


AFAR: list[dict[str, str]] = [
    {"web.host": "0.0.0.0", "auth.anonymous": "anywhere"},
    {"web.base_url": "https://archive.example/uws", "auth.anonymous": "anywhere"},
    {"auth.anonymous": "anywhere"},
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where user namespaces work."""

    def probe(asked: Any) -> Isolation:
        mode: Mode = "none" if asked.isolation == "none" else "namespaces"
        return Isolation(mode, mode != "none" and asked.network == "none", (), ("Not all.",))

    monkeypatch.setattr(configured, "probe", probe)


def settings(**options: str) -> Settings:
    return load(environment={}, options=options)


@pytest.mark.covers("3:local-isolation")
@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("afar", AFAR)
def test_strangers_jobs_get_no_network(afar: dict[str, str]) -> None:
    with pytest.raises(BadConfig, match=r"say sites\.local\.network: none"):
        isolation(settings(**afar), "local")
    assert isolation(settings(**afar, **{"sites.local.network": "none"}), "local").sealed
    assert not isolation(settings(), "local").sealed  # the people of this machine reach it all anyway


@pytest.mark.covers("3:local-isolation")
@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("afar", AFAR)
def test_strangers_jobs_are_isolated(afar: dict[str, str]) -> None:
    alone = {"sites.local.isolation": "none", "sites.local.network": "none"}
    with pytest.raises(BadConfig, match=r"cannot keep user code from .* keys, so .* Not all\."):
        isolation(settings(**afar, **alone), "local")
    isolation(settings(**alone), "local")
