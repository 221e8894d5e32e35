"""Connectors found by entry point and switched on by name; none is imported by name."""

from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from connectors.spi import CallbackEvent, Connector, ConnectorContext
from gateway.core import Iso8583
from gateway.settings import SettingsError

GROUP = "oqim.connectors"
ISO8583_DIALECT = "visa-binary"
_SECRETS = ("password", "token")

OnAdvice = Callable[[str, CallbackEvent], Awaitable[None]]


def load(
    enabled: list[str],
    settings: Mapping[str, Mapping[str, Any]],
    callback_secrets: Mapping[str, str],
    on_advice: OnAdvice,
) -> dict[str, Connector]:
    """Make every connector that is switched on; nothing is opened yet.

    Args:
        settings: one mapping a connector; the secrets among them are kept apart.
        on_advice: takes the connector's name and an event that came unasked.

    Raises:
        SettingsError: no such connector is installed, or its settings are wrong.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    connectors: dict[str, Connector] = {}
    for name in enabled:
        if name not in found:
            raise SettingsError(
                f"connector {name} is switched on and not installed; there are: "
                + ", ".join(sorted(found))
            )
        own = dict(settings.get(name, {}))
        secrets = {key: str(own.pop(key)) for key in _SECRETS if key in own}
        if name in callback_secrets:
            secrets["callback_secret"] = callback_secrets[name]
        context = ConnectorContext(
            name=name,
            settings=own,
            secrets=secrets,
            iso8583=Iso8583(ISO8583_DIALECT),
            on_advice=_bound(on_advice, name),
        )
        try:
            connectors[name] = found[name].load()(context)
        except ValueError as error:
            raise SettingsError(f"connector {error}") from error
    return connectors


def _bound(on_advice: OnAdvice, name: str) -> Callable[[CallbackEvent], Awaitable[None]]:
    async def advise(event: CallbackEvent) -> None:
        await on_advice(name, event)

    return advise
