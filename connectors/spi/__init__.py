"""What a connector is. Imports nothing of ours, so that a third party can depend on it alone."""

from connectors.spi.outcome import Outcome
from connectors.spi.pan import Pan
from connectors.spi.types import (
    CallbackEvent,
    CallbackRefused,
    CardCheck,
    CardData,
    CardLink,
    Condition,
    Connector,
    ConnectorContext,
    Instruction,
    Iso8583Codec,
    Iso8583Error,
    Kind,
    Merchant,
    Result,
    SettleBy,
)

__all__ = [
    "CallbackEvent",
    "CallbackRefused",
    "CardCheck",
    "CardData",
    "CardLink",
    "Condition",
    "Connector",
    "ConnectorContext",
    "Instruction",
    "Iso8583Codec",
    "Iso8583Error",
    "Kind",
    "Merchant",
    "Outcome",
    "Pan",
    "Result",
    "SettleBy",
]
