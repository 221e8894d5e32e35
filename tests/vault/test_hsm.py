"""A key-encryption key in a hardware module: SoftHSM stands for one, over the same interface.

Skipped where SoftHSM is not installed (Debian: `apt-get install softhsm2`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.kernel.secrets import KeysError
from gateway.kernel.vault.hsm import HsmAddress, make_key, open_hsm
from tests.house import changed_config, running_house

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
MODULE = next((one for one in MODULES if Path(one).exists()), None)
if MODULE is None or shutil.which("softhsm2-util") is None:
    pytest.skip("SoftHSM is not installed", allow_module_level=True)

PIN, OFFICER_PIN = "4821-user", "9137-officer"
ROW = "data_keys|wrapped|1"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HsmAddress]:
    """A token of its own, with a key in it."""
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    # The library reads it when it is loaded, in every process that uses the token.
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    subprocess.run(
        [
            *("softhsm2-util", "--init-token", "--free", "--label", "oqim"),
            *("--pin", PIN, "--so-pin", OFFICER_PIN),
        ],
        check=True,
        capture_output=True,
    )
    pin_file = folder / "pin"
    pin_file.write_text(PIN + "\n")
    pin_file.chmod(0o600)
    assert MODULE is not None
    address = HsmAddress(Path(MODULE), "oqim", "oqim-kek", pin_file)
    make_key(address)
    yield address
    del os.environ["SOFTHSM2_CONF"]


def test_what_is_wrapped_is_unwrapped_bound_to_its_row(token: HsmAddress) -> None:
    """By the same key, under the same name in every process; for another row it is refused."""
    provider = open_hsm(token)
    wrapped = provider.wrap(bytes(range(32)), bound_to=ROW)
    assert bytes(range(32)) not in wrapped
    assert open_hsm(token).kek == provider.kek
    assert open_hsm(token).unwrap(wrapped, bound_to=ROW) == bytes(range(32))
    with pytest.raises(KeysError, match="another key-encryption key"):
        provider.unwrap(wrapped, bound_to="data_keys|wrapped|2")
    with pytest.raises(KeysError, match="another key-encryption key"):
        provider.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), bound_to=ROW)


def test_two_wraps_of_one_key_differ(token: HsmAddress) -> None:
    """Each has a nonce of its own."""
    provider = open_hsm(token)
    assert provider.wrap(bytes(32), bound_to=ROW) != provider.wrap(bytes(32), bound_to=ROW)


def test_another_key_of_the_token_does_not_open_it(token: HsmAddress) -> None:
    """Two keys have two names, and neither unwraps what the other wrapped."""
    other = token._replace(key="another")
    make_key(other)
    wrapped = open_hsm(token).wrap(bytes(32), bound_to=ROW)
    assert open_hsm(other).kek != open_hsm(token).kek
    with pytest.raises(KeysError, match="another key-encryption key"):
        open_hsm(other).unwrap(wrapped, bound_to=ROW)


def test_the_key_does_not_leave_its_module(token: HsmAddress) -> None:
    """Whoever has the PIN can use it, and cannot read it."""
    from pkcs11 import Attribute, PKCS11Error

    key = open_hsm(token)._key
    assert not key[Attribute.EXTRACTABLE]
    assert key[Attribute.SENSITIVE]
    with pytest.raises(PKCS11Error):
        _ = key[Attribute.VALUE]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"token": "nowhere"}, "no token nowhere"),
        ({"key": "missing"}, "no AES key missing; make it: oqim vault new-hsm-key"),
        ({"module": Path("/nowhere/lib.so")}, "cannot be used by /nowhere/lib.so"),
        ({"pin_file": Path("/nowhere/pin")}, "/nowhere/pin, the hardware module's PIN"),
    ],
)
def test_what_is_missing_is_named(
    token: HsmAddress, changed: dict[str, object], words: str
) -> None:
    """And what to do about it."""
    with pytest.raises(KeysError, match=words):
        open_hsm(token._replace(**changed))  # type: ignore[arg-type]  # by name


def test_a_pin_that_is_wrong_or_open_to_others_is_refused(
    token: HsmAddress, tmp_path: Path
) -> None:
    """It is never shown. In a process of its own: one that has logged in is not asked again."""
    wrong = tmp_path / "pin"
    wrong.write_text("0000-wrong")
    wrong.chmod(0o600)
    config = tmp_path / "config"
    shutil.copytree(Path(__file__).parents[2] / "config", config)
    text = (config / "settings.toml").read_text()
    for name, value in (("module", token.module), ("pin_file", wrong)):
        text = text.replace(f'pkcs11_{name} = ""', f'pkcs11_{name} = "{value}"')
    (config / "settings.toml").write_text(text)
    for mode, words in ((0o600, "refuses the PIN"), (0o644, "chmod 600")):
        wrong.chmod(mode)
        said = subprocess.run(
            [sys.executable, "-m", "gateway", "vault", "new-hsm-key"],
            env=os.environ | {"OQIM_CONFIG_DIR": str(config)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 2, said.stdout
        assert words in said.stderr
        assert "0000-wrong" not in said.stderr + said.stdout


def test_a_key_is_not_made_twice(token: HsmAddress) -> None:
    """One that is there stays as it is."""
    with pytest.raises(KeysError, match="already"):
        make_key(token)


async def test_a_bank_moves_its_key_into_a_module_and_goes_on(token: HsmAddress) -> None:
    """From shares to the module by `oqim vault rewrap --to pkcs11`: every card still pays."""
    named = {
        'pkcs11_module = ""': f'pkcs11_module = "{token.module}"',
        'pkcs11_pin_file = ""': f'pkcs11_pin_file = "{token.pin_file}"',
    }
    in_use = named | {'kek = "shares"': 'kek = "pkcs11"'}
    with changed_config(settings=named) as before, changed_config(settings=in_use) as after:
        async with running_house(environment=before) as house:
            assert (await house.pay(0, house.purchase(0, "uzcard", 5_000))).status == 201
            done = await asyncio.to_thread(house.oqim, "vault", "rewrap", "--to", "pkcs11")
            assert done.returncode == 0, done.stderr
            assert "1 data keys are wrapped by" in done.stdout
            assert await house.stop() == 0
            # The shares are gone for good.
            for share in house.data_dir.glob("kek-*.share"):
                share.unlink()
            house.environment |= after
            await house.start()
            assert (await house.pay(0, house.purchase(0, "uzcard", 6_000))).status == 201
            status = await asyncio.to_thread(house.oqim, "vault", "status")
            assert open_hsm(token).kek in status.stdout
