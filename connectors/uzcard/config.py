"""UZCARD's settings, validated. Every error names the key."""

from dataclasses import dataclass, field

from connectors.spi.types import ConnectorContext
from connectors.transport.http import HttpPolicy, read_http_policy
from connectors.transport.settings import SettingsReader, secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the connector was told.

    Args:
        base_url: SVGate's one endpoint.
        login, password: of Basic authorization.
        merchant_id, terminal_id: as registered at SVGate; empty to send the merchant's own.
        purpose, service_name: texts of at most 20 characters that SVGate shows.
        port: point of sale port of 5 digits, for charging a hold.
        hold_minutes: how long a hold lives.
        hold_match_window_ms: how far from the attempt's time a lost hold is looked for.
        credit_sender: the sender of credits, as `p2p.universal.credit` names it.
    """

    base_url: str
    login: str
    password: str = field(repr=False)
    merchant_id: str
    terminal_id: str
    purpose: str
    service_name: str
    port: str
    hold_minutes: int
    hold_match_window_ms: int
    credit_sender: dict[str, str] = field(repr=False)
    http: HttpPolicy


def read_config(context: ConnectorContext) -> Config:
    """Validate the context. Raises ValueError naming the key."""
    reader = SettingsReader(context.name, context.settings)
    config = Config(
        base_url=reader.url("base_url"),
        login=reader.text("login", pattern=r"[^:\s]{1,64}"),
        password=secret(context.name, context.secrets, "password"),
        merchant_id=reader.text("merchant_id", "", pattern=r"\d{0,16}"),
        terminal_id=reader.text("terminal_id", "", pattern=r"\d{0,16}"),
        purpose=reader.text("purpose", "payment", pattern=r".{1,20}"),
        service_name=reader.text("service_name", "OQIM", pattern=r".{1,20}"),
        port=reader.text("port", "00000", pattern=r"\d{5}"),
        hold_minutes=reader.integer("hold_minutes", 10_080, least=1, most=43_200),
        hold_match_window_ms=reader.integer(
            "hold_match_window_ms", 120_000, least=1_000, most=3_600_000
        ),
        credit_sender=reader.strings("credit_sender") or {"legalName": "OQIM", "system": "uzcard"},
        http=read_http_policy(reader),
    )
    reader.finish()
    return config
