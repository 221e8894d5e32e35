"""Settings: TOML files and the environment become one frozen value; unknown keys are errors.

Order of precedence: environment, then the files of the configuration folder. The folder is
`OQIM_CONFIG_DIR`, or the default files the package carries (`config/` of the repository).

Environment: `OQIM_PORT`, `OQIM_WORKERS`, `OQIM_DATABASE_URL`, `OQIM_REDIS_URL`, `OQIM_DATA_DIR`,
`OQIM_CONFIG_DIR`, `OQIM_KEK_SHARES`, `OQIM_CONNECTORS` (a JSON object merged over connectors.toml
by section).
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec


class SettingsError(Exception):
    """A setting that cannot be used; the text names the file or variable and what to do."""


Origin = Annotated[
    str,
    msgspec.Meta(pattern=r"^(https://[a-z0-9.-]+|http://(localhost|127\.0\.0\.1))(:[0-9]{1,5})?$"),
]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Http(_Section, frozen=True):
    host: str
    port: int
    body_bytes_max: int
    in_flight_max: int
    connections_max: Annotated[int, msgspec.Meta(ge=1)]
    head_timeout_s: Annotated[float, msgspec.Meta(gt=0.0)]
    body_timeout_s: Annotated[float, msgspec.Meta(gt=0.0)]
    idle_timeout_s: Annotated[float, msgspec.Meta(gt=0.0)]
    cors_origins: list[Origin]
    tls_certificate: str
    tls_key: str
    tls_client_ca: str
    base_urls: list[str]
    is_plain: bool


class Admission(_Section, frozen=True):
    inside_first: int
    inside_min: int
    inside_max: int
    delay_target_ms: float
    payments_percent: int
    reads_percent: int
    reports_percent: int
    reports_at_once: int


class Database(_Section, frozen=True):
    url: str
    pool_size_max: int
    acquire_timeout_ms: float
    shared_acquire_timeout_ms: float
    command_timeout_s: float


class Redis(_Section, frozen=True):
    url: str
    timeout_s: float


class CoreSettings(_Section, frozen=True):
    token_cache_size_max: int
    card_cache_size_max: int
    subject_cache_size_max: int
    quote_ttl_s: int
    feed_age_s_max: float


class Identity(_Section, frozen=True):
    issuer: str
    audience: str
    access_token_ttl_s: int
    refresh_token_ttl_s: int
    refresh_grace_s: int
    session_lifetime_s: int
    devices_max: Annotated[int, msgspec.Meta(ge=1, le=100)]
    devices_over: Literal["end-oldest", "refuse-new"]
    new_device_unlinks_cards: bool
    code_length: Annotated[int, msgspec.Meta(ge=6, le=16)]
    code_ttl_s: Annotated[int, msgspec.Meta(ge=1, le=59)]
    code_tries_max: Annotated[int, msgspec.Meta(ge=1, le=3)]
    code_lock_s: Annotated[int, msgspec.Meta(ge=900)]
    code_resend_s: int
    code_sends_max: Annotated[int, msgspec.Meta(ge=1)]
    new_user_tier: str
    mobile_scopes: list[str]
    mobile_dpop: Literal["off", "optional", "required"]
    dpop_proof_age_s: Annotated[int, msgspec.Meta(ge=1, le=300)]
    dpop_nonce_required: bool
    signing_key_life_s: Annotated[int, msgspec.Meta(ge=0)]


class Cards(_Section, frozen=True):
    per_user_max: int
    numbers_per_hour_max: Annotated[int, msgspec.Meta(ge=1)]
    refusals_per_hour_max: Annotated[int, msgspec.Meta(ge=1)]
    code_sends_max: int
    deleted_number_kept_days: int


class Journal(_Section, frozen=True):
    batch_size_max: int
    queue_size_max: int
    hot_subject_s: float


class Recovery(_Section, frozen=True):
    poll_s: float
    worker_lease_s: float
    retry_first_s: float
    retry_last_s: float
    not_found_final_s: float
    tries_max: int
    batch_size_max: int


class Webhooks(_Section, frozen=True):
    schedule_s: Annotated[list[float], msgspec.Meta(min_length=1, max_length=32)]
    timeout_s: float
    poll_s: float
    throttle_s: float
    in_flight_max: int
    in_flight_per_endpoint_max: int
    endpoints_per_owner_max: int
    old_secret_signs_s: int
    kept_days: Annotated[int, msgspec.Meta(ge=1)]
    days_ahead: Annotated[int, msgspec.Meta(ge=1, le=60)]
    ports: list[int]
    allow_private: bool


class Events(_Section, frozen=True):
    poll_s: float
    heartbeat_s: float
    streams_max: int
    streams_per_user_max: int


class Operators(_Section, frozen=True):
    session_s: int
    idle_s: Annotated[int, msgspec.Meta(ge=60, le=43_200)]
    tries_max: Annotated[int, msgspec.Meta(ge=1, le=10)]
    lock_s: Annotated[int, msgspec.Meta(ge=1_800)]
    approval_age_s: int


class ChannelQuota(_Section, frozen=True):
    rate_per_s: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    concurrency_max: Annotated[int, msgspec.Meta(ge=0, le=100_000)]
    counts: Literal["client", "customer"]


class Quotas(_Section, frozen=True):
    exchange_ms: Annotated[int, msgspec.Meta(ge=10, le=1_000)]
    applies_in_sandbox: bool
    mobile: ChannelQuota
    api: ChannelQuota
    console: ChannelQuota


class Proposals(_Section, frozen=True):
    lives_s: Annotated[int, msgspec.Meta(ge=1)]


class Refunds(_Section, frozen=True):
    alone_max: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


class Vault(_Section, frozen=True):
    kek_shares: list[str]
    kek: Literal["shares", "pkcs11"]
    pkcs11_module: str
    pkcs11_token: str
    pkcs11_key: str
    pkcs11_pin_file: str


class Audit(_Section, frozen=True):
    root_s: Annotated[float, msgspec.Meta(gt=0.0)]


class Connectors(_Section, frozen=True):
    enabled: list[str]


class _File(_Section, frozen=True):
    http: Http
    admission: Admission
    database: Database
    redis: Redis
    core: CoreSettings
    identity: Identity
    cards: Cards
    journal: Journal
    recovery: Recovery
    connectors: Connectors
    webhooks: Webhooks
    events: Events
    audit: Audit
    vault: Vault
    operators: Operators
    quotas: Quotas
    proposals: Proposals
    refunds: Refunds


class Settings(_File, frozen=True):
    """Everything, read once.

    Attributes:
        workers: gateway processes on one port, 1 to 64.
        data_dir: where the sandbox keeps its services, keys and logs.
        rules: JSON of commission plans, limit policies and rates: the first of a new database.
        routing: JSON of BINs and routes, for the core.
        accounts: JSON of the chart of accounts.
        roles: JSON of operators' roles.
        connector_settings: one mapping a connector.
        is_sandbox: whether `/sandbox/v1` is served.
    """

    workers: int
    data_dir: Path
    rules: bytes
    routing: bytes
    accounts: bytes
    roles: bytes
    connector_settings: dict[str, dict[str, Any]]
    is_sandbox: bool


def config_dir(environment: Mapping[str, str]) -> Path:
    """Return the folder the files are read from."""
    named = environment.get("OQIM_CONFIG_DIR")
    return Path(named) if named else Path(__file__).resolve().parent / "defaults"


def load(environment: Mapping[str, str] = os.environ, *, is_sandbox: bool = False) -> Settings:
    """Read the files and the environment. Raises SettingsError that names what is wrong."""
    folder = config_dir(environment)
    tables = _read(folder / "settings.toml")
    data_dir = Path(environment.get("OQIM_DATA_DIR", "var")).resolve()
    _override(tables, environment, data_dir)
    _address(tables, is_sandbox=is_sandbox)
    try:
        file = msgspec.convert(tables, _File)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings.toml: {error}") from error
    rules: dict[str, Any] = {}
    for name in ("commissions", "limits", "rates"):
        rules |= _read(folder / f"{name}.toml")
    routing = _read(folder / "bins.toml") | _read(folder / "routing.toml")
    return Settings(
        **{name: getattr(file, name) for name in _File.__struct_fields__},
        workers=_number(environment, "OQIM_WORKERS", 1, low=1, high=64),
        data_dir=data_dir,
        rules=msgspec.json.encode(rules),
        routing=msgspec.json.encode(routing),
        accounts=msgspec.json.encode(_read(folder / "accounts.toml")),
        roles=msgspec.json.encode(_read(folder / "roles.toml")),
        connector_settings=_connector_settings(folder, environment),
        is_sandbox=is_sandbox,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing; set OQIM_CONFIG_DIR to your folder") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}") from error


def _number(environment: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise SettingsError(f"{name} must be a number from {low} to {high}")
    return int(text)


def _override(tables: dict[str, Any], environment: Mapping[str, str], data_dir: Path) -> None:
    http = tables.get("http", {})
    http["port"] = _number(environment, "OQIM_PORT", http.get("port", 8080), low=0, high=65535)
    for name, section in (("OQIM_DATABASE_URL", "database"), ("OQIM_REDIS_URL", "redis")):
        if environment.get(name):
            tables.get(section, {})["url"] = environment[name]
    vault = tables.get("vault", {})
    if environment.get("OQIM_KEK_SHARES"):
        vault["kek_shares"] = environment["OQIM_KEK_SHARES"].split(os.pathsep)
    elif not vault.get("kek_shares"):
        # A sandbox's own, so that its commands need not be told.
        vault["kek_shares"] = sorted(str(one) for one in data_dir.glob("kek-*.share"))


def _address(tables: dict[str, Any], *, is_sandbox: bool) -> None:
    """Say where clients reach this server, where the file does not."""
    http = tables.get("http", {})
    if http.get("base_urls"):
        http["base_urls"] = [str(one).rstrip("/") for one in http["base_urls"]]
    elif is_sandbox:
        scheme = "https" if http.get("tls_certificate") else "http"
        hosts = dict.fromkeys((http.get("host"), "localhost"))
        http["base_urls"] = [f"{scheme}://{host}:{http['port']}" for host in hosts]
    else:
        http["base_urls"] = [str(tables.get("identity", {}).get("issuer", "")).rstrip("/")]


def _connector_settings(folder: Path, environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = _read(folder / "connectors.toml")
    text = environment.get("OQIM_CONNECTORS", "")
    if text:
        try:
            extra = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingsError(f"OQIM_CONNECTORS is not JSON: {error}") from error
        try:
            merged = msgspec.convert(extra, dict[str, dict[str, Any]])
        except msgspec.ValidationError as error:
            raise SettingsError(f"OQIM_CONNECTORS: {error}") from error
        for name, values in merged.items():
            sections[name] = sections.get(name, {}) | values
    return sections
