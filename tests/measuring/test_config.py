"""The configuration of a run's own sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway import settings as settings_module
from gateway.measuring import config
from gateway.payments import connectors as loading
from gateway.sandbox.errors import SandboxError
from gateway.settings import SettingsError

LOADTESTS = Path(__file__).resolve().parents[2] / "loadtests"


@pytest.mark.parametrize("name", ["settings", "connectors"])
def test_a_configuration_of_another_form_is_refused(tmp_path: Path, name: str) -> None:
    """What a law changes must be there to be changed."""
    source = tmp_path / "source"
    config.write(source, tmp_path)
    assert config.widen(source, tmp_path / "wide")
    (source / f"{name}.toml").write_text("")
    with pytest.raises(SandboxError, match=name):
        config.widen(source, tmp_path / "other")


def test_the_benchmarks_configuration_is_read_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The immediate connector is switched on there, found by its folder, and nowhere else."""
    assert "immediate" not in settings_module.load({}).connectors.enabled
    environment = config.write(tmp_path / "config", LOADTESTS)
    settings = settings_module.load(environment)
    wide = settings_module.load(config.widen(tmp_path / "config", tmp_path / "wide"))
    assert wide.http.in_flight_max > 10_000 > settings.http.in_flight_max
    assert len(json.loads(settings.routing)["routes"]) > len(
        json.loads(settings_module.load({}).routing)["routes"]
    )

    async def ignore(name: str, event: Any) -> None:
        """Nobody calls."""

    sections = settings.connector_settings
    with pytest.raises(SettingsError, match="not installed"):
        loading.load(["immediate"], sections, {}, ignore)
    monkeypatch.syspath_prepend(str(LOADTESTS / "immediate"))
    assert list(loading.load(["immediate"], sections, {}, ignore)) == ["immediate"]
    with pytest.raises(SettingsError, match='must be "nothing"'):
        loading.load(["immediate"], {}, {}, ignore)
