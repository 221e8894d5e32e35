"""The central bank's rules of one-time codes are what the settings are, or stricter."""

from __future__ import annotations

import pytest

from gateway import settings as settings_module
from gateway.settings import SettingsError
from tests.house import changed_config


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("code_length = 6", "code_length = 5"),
        ("code_ttl_s = 59", "code_ttl_s = 60"),
        ("code_tries_max = 3", "code_tries_max = 4"),
        ("code_lock_s = 900", "code_lock_s = 899"),
        ("code_sends_max = 5", "code_sends_max = 0"),
        ('devices_over = "end-oldest"', 'devices_over = "end-newest"'),
    ],
)
def test_what_is_laxer_than_the_rule_is_refused_at_start(before: str, after: str) -> None:
    """It names the setting."""
    with changed_config(settings={before: after}) as environment:
        name = before.partition(" ")[0]
        with pytest.raises(SettingsError, match=rf"settings\.toml: .*{name}"):
            settings_module.load(environment)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("code_length = 6", "code_length = 8"),
        ("code_ttl_s = 59", "code_ttl_s = 30"),
        ("code_tries_max = 3", "code_tries_max = 2"),
        ("code_lock_s = 900", "code_lock_s = 3600"),
        ('devices_over = "end-oldest"', 'devices_over = "refuse-new"'),
    ],
)
def test_what_is_stricter_is_a_banks_own_choice(before: str, after: str) -> None:
    with changed_config(settings={before: after}) as environment:
        settings = settings_module.load(environment).identity
        name, _, value = after.partition(" = ")
        assert str(getattr(settings, name)) == value.strip('"')
