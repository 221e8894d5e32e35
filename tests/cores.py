"""The rules of a configuration folder, read by the core."""

from gateway import settings as settings_module
from gateway.core import RuleSet, read_rules


def rules_of(settings: settings_module.Settings) -> RuleSet:
    """Return the compiled rules of the settings."""
    rules = read_rules(settings.rules)
    assert isinstance(rules, RuleSet), rules
    return rules
