"""The `oqim` command line."""

import asyncio
import getpass
import os
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
import uvloop

from gateway import settings as settings_module
from gateway.bench import commands as bench_commands
from gateway.drills import commands as drill_commands
from gateway.identity import commands as identity_commands
from gateway.kernel import logs
from gateway.kernel import secrets as keys_module
from gateway.quotas import commands as quota_commands

app = cyclopts.App(
    name="oqim",
    help="Oqim, a bank's payment platform. Start with `oqim sandbox`.",
    version_flags=["--version"],
)

audit = cyclopts.App(name="audit", help="Check what is stored against what it should be.")
app.command(audit)
vault = cyclopts.App(name="vault", help="The keys by which card numbers and secrets are sealed.")
app.command(vault)
operators = cyclopts.App(name="operators", help="Bank employees who log in to the console.")
app.command(operators)
rates = cyclopts.App(name="rates", help="The central bank's rates, which limits convert by.")
app.command(rates)
clients = cyclopts.App(name="clients", help="Apps and servers that get tokens, and how they do.")
app.command(clients)
clients.command(identity_commands.add)
clients.command(identity_commands.change)
clients.command(identity_commands.list_clients, name="list")
clients.command(quota_commands.limit)
keys = cyclopts.App(name="keys", help="The keys that access tokens are signed with.")
app.command(keys)
keys.command(identity_commands.rotate_key, name="rotate")
keys.command(identity_commands.list_keys, name="list")
keys.command(identity_commands.drop_key, name="drop")
app.command(drill_commands.drill)
app.command(bench_commands.bench)
app.command(bench_commands.profile)


def _fail(error: Exception) -> "SystemExit":
    print(f"oqim: {error}", file=sys.stderr)
    return SystemExit(2)


def _settings(*, is_sandbox: bool = False) -> settings_module.Settings:
    try:
        return settings_module.load(is_sandbox=is_sandbox)
    except settings_module.SettingsError as error:
        raise _fail(error) from None


def _keys(settings: settings_module.Settings) -> keys_module.Keys:
    path = Path(os.environ.get("OQIM_KEYS_FILE", settings.data_dir / "keys.json"))
    try:
        return keys_module.load(path)
    except keys_module.KeysError as error:
        raise _fail(error) from None


def _require_urls(settings: settings_module.Settings) -> None:
    for name, value in (
        ("OQIM_DATABASE_URL", settings.database.url),
        ("OQIM_REDIS_URL", settings.redis.url),
    ):
        if not value:
            raise _fail(
                settings_module.SettingsError(
                    f"{name} is not set; `oqim sandbox` brings its own PostgreSQL and Valkey"
                )
            )


@app.command
def sandbox() -> None:
    """Start everything on this machine: PostgreSQL, Valkey, processor simulators, gateway.

    OQIM_PORT (8080), OQIM_WORKERS (1) and OQIM_DATA_DIR (var) change the defaults;
    OQIM_DATABASE_URL and OQIM_REDIS_URL use services of your own. Ctrl-C stops everything.
    """
    from gateway.sandbox import run

    logs.configure()
    try:
        code = asyncio.run(run.sandbox(_settings(is_sandbox=True)))
    except settings_module.SettingsError as error:
        raise _fail(error) from None
    raise SystemExit(code)


@app.command
def serve() -> None:
    """Run the gateway in the foreground, against OQIM_DATABASE_URL and OQIM_REDIS_URL.

    Keys come from the file OQIM_KEYS_FILE (mode 0600). OQIM_WORKERS (1) workers share one port and
    are started again when they die. SIGTERM finishes what was begun, and ends; SIGUSR2 replaces the
    workers one after another, without an error for anybody; SIGHUP reads a renewed certificate.
    """
    from gateway.app import serving
    from gateway.crew import Crew, CrewError

    logs.configure()
    settings = _settings(is_sandbox=os.environ.get("OQIM_SANDBOX") == "1")
    _require_urls(settings)
    try:
        if settings.workers > 1:
            asyncio.run(Crew(settings.workers).run())
            return
        uvloop.run(serving.serve(settings, _keys(settings)))
    except (settings_module.SettingsError, CrewError) as error:
        raise _fail(error) from None


@app.command
def migrate(
    *, rollback: Annotated[bool, cyclopts.Parameter(help="Undo the last one instead.")] = False
) -> None:
    """Bring the database of OQIM_DATABASE_URL up to date."""
    from gateway.kernel.db import migrate as migrations

    settings = _settings()
    if not settings.database.url:
        raise _fail(settings_module.SettingsError("OQIM_DATABASE_URL is not set"))
    change = migrations.roll_back if rollback else migrations.apply
    count = change(settings.database.url, print)
    print(f"{count} migration(s) {'undone' if rollback else 'applied'}")


@app.command
def decide(
    *, rules: Annotated[Path, cyclopts.Parameter(help="JSON of policies, plans and rates.")]
) -> None:
    """Decide a dated history by the rules alone: lines of JSON in, lines of JSON out.

    `oqim decide --rules rules.json < history.jsonl > decisions.jsonl` needs no database and no
    network; the same rules and history give the same bytes. A line is a payment
    (`"event": "pay"`) or what became of it (`decline`, `cancel`, `capture`, `refund`). The first
    line that cannot be read ends it, with its number on standard error and status 2.
    """
    from gateway import decide as history

    try:
        with os.fdopen(sys.stdin.fileno(), "rb", closefd=False) as lines:
            history.decide(rules, lines, sys.stdout.buffer)
    except history.DecideError as error:
        raise _fail(error) from None


@audit.command
def commissions(
    *,
    rules: Annotated[
        Path | None, cyclopts.Parameter(help="Take the plans from this file instead.")
    ] = None,
) -> None:
    """Compute every stored commission line again, by a second implementation, and tell differences.

    Reads the database of OQIM_DATABASE_URL. Status 0: all match; 1: some differ.
    """
    from gateway.audit import commissions as auditing

    settings = _settings()
    if not settings.database.url:
        raise _fail(settings_module.SettingsError("OQIM_DATABASE_URL is not set"))
    raise SystemExit(auditing.audit_commissions(settings.database.url, rules_file=rules))


@audit.command(name="export")
def export_audit(
    *, out: Annotated[Path, cyclopts.Parameter(help="The file to write; it must not be there.")]
) -> None:
    """Write the audit log to a file that `oqim audit verify` checks: every chain and every root.

    Reads the database of OQIM_DATABASE_URL as of one moment, and the signer's public key from
    OQIM_KEYS_FILE.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from gateway.audit import export
    from gateway.kernel.progress import Counter

    settings = _settings()
    if not settings.database.url:
        raise _fail(settings_module.SettingsError("OQIM_DATABASE_URL is not set"))
    keys = _keys(settings)
    if keys.audit is None:
        raise _fail(keys_module.KeysError("the keys file has no `audit` key"))
    public = Ed25519PrivateKey.from_private_bytes(keys.audit).public_key().public_bytes_raw()
    try:
        with out.open("xb") as file, Counter("records", sys.stderr) as counter:
            count = export.run(
                settings.database.url, file, public_key=public, advance=counter.advance
            )
    except OSError as error:
        raise _fail(error) from None
    print(f"{count} records written to {out}")


@audit.command(name="verify")
def verify_audit(
    file: Path,
    *,
    key: Annotated[str | None, cyclopts.Parameter(help="Public key, in base64.")] = None,
    anchor: Annotated[
        Path | None, cyclopts.Parameter(help="JSON of a root kept elsewhere, as it was logged.")
    ] = None,
) -> None:
    """Check an export of the audit log, offline; names the first bad record of each chain.

    Give the key as you know it, not as the export says it. Status 0: every chain holds; 1: some do
    not; 2: it cannot be read.
    """
    from gateway.audit import verifying

    raise SystemExit(verifying.verify_file(file, key=key, anchor=anchor))


@vault.command(name="new-share")
def new_share(file: Path) -> None:
    """Make one custodian's share of a key-encryption key: a file of mode 0600, never overwritten.

    Two at least, made and kept by different people, are one key. Name them with OQIM_KEK_SHARES,
    separated by colons.
    """
    from gateway.kernel.vault.providers import make_share

    try:
        make_share(file)
    except OSError as error:
        raise _fail(error) from None
    print(f"a share is in {file}; keep a copy where only its custodian can reach it")


@vault.command(name="new-hsm-key")
def new_hsm_key() -> None:
    """Make a key-encryption key in the hardware module of settings.toml, which it never leaves."""
    from gateway.kernel.vault.hsm import make_key
    from gateway.kernel.vault.providers import hsm_address

    try:
        address = hsm_address(_settings().vault)
        make_key(address)
    except keys_module.KeysError as error:
        raise _fail(error) from None
    print(f"the token {address.token} has a key {address.key}")


@vault.command(name="status")
def vault_status() -> None:
    """Say which data keys there are, and how many values are sealed by each."""
    from gateway.custody import command

    command.status(_vault_settings().database.url)


@vault.command(name="rotate")
def vault_rotate() -> None:
    """Make a new data key, seal everything by it, and destroy the others, while payments run.

    It takes about a quarter of a minute and then as long as there are values; run it again when it
    was stopped, and it goes on.
    """
    from gateway.custody import command
    from gateway.kernel.vault.providers import open_provider

    settings = _vault_settings()
    try:
        command.rotate(
            settings.database.url,
            open_provider(settings.vault),
            feed_age_s_max=settings.core.feed_age_s_max,
        )
    except keys_module.KeysError as error:
        raise _fail(error) from None


@vault.command(name="rewrap")
def vault_rewrap(
    *,
    new_share: Annotated[
        list[Path] | None, cyclopts.Parameter(help="The new key's shares; give it once a share.")
    ] = None,
    to: Annotated[
        Literal["shares", "pkcs11"] | None,
        cyclopts.Parameter(help="Move to what settings.toml names beside the one in use."),
    ] = None,
) -> None:
    """Wrap the data keys by another key-encryption key; then start the workers with it."""
    from gateway.custody import command
    from gateway.kernel.vault.providers import from_files, open_provider

    settings = _vault_settings()
    if (to is None) == (new_share is None):
        raise _fail(settings_module.SettingsError("name the new key: --new-share, or --to"))
    try:
        successor = from_files(new_share) if new_share else open_provider(settings.vault, kek=to)
        command.rewrap(settings.database.url, open_provider(settings.vault), successor)
    except keys_module.KeysError as error:
        raise _fail(error) from None


def _vault_settings() -> settings_module.Settings:
    settings = _settings()
    if not settings.database.url:
        raise _fail(settings_module.SettingsError("OQIM_DATABASE_URL is not set"))
    return settings


@operators.command(name="add")
def add_operator(
    login: str,
    *,
    name: Annotated[str, cyclopts.Parameter(help="As others see it.")],
    role: Annotated[list[str], cyclopts.Parameter(help="Of config/roles.toml; may be repeated.")],
) -> None:
    """Add an operator: the first, or one whose roles others then change by four eyes.

    Asks for a password (12 characters at least), and prints what an authenticator app reads. Writes
    the database of OQIM_DATABASE_URL.
    """
    from gateway.operators import adding

    settings = _vault_settings()
    password = os.environ.get("OQIM_OPERATOR_PASSWORD") or getpass.getpass("Password: ")
    try:
        added = adding.run(
            settings,
            login=login,
            name=name,
            roles=role,
            password=password,
            actor=f"cli:{getpass.getuser()}",
        )
    except (adding.AddError, keys_module.KeysError, settings_module.SettingsError) as error:
        raise _fail(error) from None
    print(f"{added.id} {login}")
    print(f"For an authenticator app, once: {added.provisioning_uri}")


@rates.command(name="import")
def import_rates(file: Path) -> None:
    """Store the rates of a file as the central bank publishes it; workers follow within a second.

    The file is JSON: `[{"Ccy": "USD", "Nominal": "1", "Rate": "12021.22", "Date": "21.11.2026"}]`;
    other members are left alone. A rate that is stored is never changed. Writes the database of
    OQIM_DATABASE_URL.
    """
    from gateway.rules import rates as importing

    settings = _settings()
    if not settings.database.url:
        raise _fail(settings_module.SettingsError("OQIM_DATABASE_URL is not set"))
    actor = f"cli:{getpass.getuser()}"
    try:
        text = file.read_bytes()
        imported = asyncio.run(importing.import_file(settings.database.url, text, actor=actor))
    except OSError as error:
        raise _fail(error) from None
    except importing.RatesError as error:
        raise _fail(error) from None
    if imported.generation is None:
        print(f"nothing new: {imported.known} rates are stored already")
    else:
        print(f"{imported.added} rates stored, generation {imported.generation}")


@app.command
def reconcile(
    file: Path,
    *,
    connector: Annotated[str, cyclopts.Parameter(help="Whose report it is.")],
    day: Annotated[date, cyclopts.Parameter(help="The business day, in Tashkent.")],
) -> None:
    """Import a processor's report of a business day from its file, and match it.

    The same file again changes nothing; a corrected one takes the place of the one before. Writes
    the database of OQIM_DATABASE_URL; what the report knows of payments in doubt a running gateway
    tells them within seconds. Status 0: everything matches; 1: there are open breaks; 2: the file
    was not imported.
    """
    from gateway.kernel.progress import Counter
    from gateway.reconciliation import command

    settings = _settings()
    if not settings.database.url:
        raise _fail(settings_module.SettingsError("OQIM_DATABASE_URL is not set"))
    actor = f"cli:{getpass.getuser()}"
    try:
        with Counter("bytes", sys.stderr) as counter:
            told = asyncio.run(
                command.import_file(
                    settings,
                    connector,
                    day,
                    file,
                    actor=actor,
                    on_progress=counter.advance,
                    on_read=lambda: print("… read; matching", file=sys.stderr, flush=True),
                )
            )
    except (command.ReconcileError, settings_module.SettingsError) as error:
        raise _fail(error) from None
    if not told.is_new:
        print("nothing new: this very report was imported already")
    print(f"revision {told.revision}: {told.lines} lines, {told.matched} match")
    for kind, count in told.breaks.items():
        print(f"  {kind:<14} {count}")
    raise SystemExit(1 if told.breaks else 0)


def main() -> None:
    """Run the command line."""
    app()
