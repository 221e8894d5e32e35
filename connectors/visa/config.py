"""VISA's settings, validated. Every error names the key."""

from dataclasses import dataclass

from connectors.spi.types import ConnectorContext, Merchant
from connectors.transport.link_policy import LinkPolicy, read_link_policy
from connectors.transport.places import Place, read_place
from connectors.transport.settings import SettingsReader
from connectors.visa.codec import Acquirer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the connector was told.

    Args:
        acquirer: who we are to VISA.
        checker: the acceptor named when an account is checked, which no merchant asks for.
        link: the socket.
        place: where the clearing of a day is left.
    """

    acquirer: Acquirer
    checker: Merchant
    link: LinkPolicy
    place: Place


def read_config(context: ConnectorContext) -> Config:
    """Validate the context. Raises ValueError naming the key.

    Notes:
        `source_station` is the acquirer's first six digits unless it is set.
    """
    settings = dict(context.settings)
    acquirer_id = SettingsReader(context.name, settings).text("acquirer_id", pattern=r"\d{6,11}")
    settings.setdefault("source_station", acquirer_id[:6])
    del settings["acquirer_id"]
    reader = SettingsReader(context.name, settings)
    config = Config(
        acquirer=Acquirer(
            acquirer_id=acquirer_id,
            country_code=reader.text("country_code", "860", pattern=r"\d{3}"),
            entry_mode=reader.text("entry_mode", "010", pattern=r"\d{3}"),
        ),
        checker=Merchant(
            id=reader.text("merchant_id", "OQIM", pattern=r"[ -~]{1,15}"),
            terminal_id=reader.text("terminal_id", "OQIM0001", pattern=r"[ -~]{1,8}"),
            mcc=reader.text("mcc", "6012", pattern=r"\d{4}"),
            name=reader.text("merchant_name", "OQIM", pattern=r"[ -~]{1,25}"),
        ),
        link=read_link_policy(reader),
        # Files come from another host than the socket's, by the system's own authorities.
        place=read_place(reader, None),
    )
    reader.finish()
    return config
