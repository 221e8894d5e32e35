"""HUMO's settings, validated. Every error names the key."""

from dataclasses import dataclass, field

from connectors.spi.pan import Pan
from connectors.spi.types import ConnectorContext
from connectors.transport.http import HttpPolicy, read_http_policy
from connectors.transport.places import Place, read_place
from connectors.transport.settings import SettingsReader, secret

# Digits 5 and 6 of a card's number name its bank; HUMO wants the name.
CENTRES = {
    "01": "Ipoteka",
    "02": "UzPSB",
    "03": "Agrobank",
    "04": "Asaka",
    "08": "Xalqbank",
    "09": "AsiaAllianc",
    "10": "Kapital",
    "12": "NBU",
    "13": "Mkredit",
    "15": "Turon",
    "16": "Hamkor",
    "17": "IpakYuli",
    "18": "Trastbank",
    "19": "Aloqa",
    "24": "Ravnaq",
    "25": "Davr",
    "26": "Infin",
    "27": "OFB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the connector was told.

    Args:
        base_url: of the SOAP payment server.
        card_url: of the JSON service, without the path of its method.
        card_path: the method that gives a card's information, `/v2/...` or `/v3/...`.
        login, password: of Basic authorization; `login` is also the payments' originator.
        token: Bearer token of the JSON service.
        merchant_id, terminal_id: as registered at HUMO; empty to send the merchant's own.
        point_code: 12-character point of service data code.
        centre_default: the bank's name for cards of banks that are not in the table.
        switching_same_bank, switching_other_bank: routes of a card to card transfer.
        is_partial_refund: whether a refund may be of a part.
        sender_data_from_minor: credits from this many tiyin must name their sender.
        credit_sender: details that name the sender of credits (`sender_first_name`, ...).
        place: where the file of a day is left.
    """

    base_url: str
    card_url: str
    login: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    merchant_id: str
    terminal_id: str
    point_code: str
    centre_default: str
    switching_same_bank: str
    switching_other_bank: str
    is_partial_refund: bool
    sender_data_from_minor: int
    credit_sender: dict[str, str] = field(repr=False)
    http: HttpPolicy
    place: Place

    def centre(self, pan: Pan) -> str:
        """The name of the bank that issued a card."""
        return CENTRES.get(pan.first6[4:], self.centre_default)


def read_config(context: ConnectorContext) -> Config:
    """Validate the context. Raises ValueError naming the key."""
    reader = SettingsReader(context.name, context.settings)
    base_url = reader.url("base_url")
    card_url = reader.url("card_url") if "card_url" in context.settings else base_url
    card_path = reader.text("card_path", "/v2/iiacs/card", pattern=r"/[A-Za-z0-9/_.-]{1,100}")
    http = read_http_policy(reader)
    config = Config(
        base_url=base_url,
        card_url=card_url + card_path,
        login=reader.text("login", pattern=r"[^:\s]{1,64}"),
        password=secret(context.name, context.secrets, "password"),
        token=secret(context.name, context.secrets, "token"),
        merchant_id=reader.text("merchant_id", "", pattern=r"[A-Za-z0-9]{0,15}"),
        terminal_id=reader.text("terminal_id", "", pattern=r"[A-Za-z0-9]{0,8}"),
        point_code=reader.text("point_code", "100010104110", pattern=r"[A-Za-z0-9]{12}"),
        centre_default=reader.text("centre_default", "HUMO", pattern=r"[A-Za-z0-9]{1,20}"),
        switching_same_bank=reader.text("switching_same_bank", "48", pattern=r"\d{1,4}"),
        switching_other_bank=reader.text("switching_other_bank", "50", pattern=r"\d{1,4}"),
        is_partial_refund=reader.choice(
            "partial_refund", "return_amount", ("return_amount", "none")
        )
        == "return_amount",
        sender_data_from_minor=reader.integer(
            "sender_data_from_minor", 1_200_000_000, least=1, most=10**15
        ),
        credit_sender=reader.strings("credit_sender"),
        http=http,
        place=read_place(reader, http.tls),
    )
    reader.finish()
    return config
