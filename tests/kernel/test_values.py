"""Ids, routes, cursors, settings and keys: small things that everything stands on."""

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway import settings as settings_module
from gateway.kernel import ids, secrets
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.problems import Problem
from gateway.kernel.http.routes import Found, Route, RouteTable
from gateway.settings import SettingsError

# Ids ----------------------------------------------------------------------------------------


def test_an_id_has_its_prefix_and_26_characters() -> None:
    one = ids.new_id("pay_", 1_795_000_000_000)
    assert one.startswith("pay_")
    assert len(one) == 4 + ids.LENGTH
    assert set(one[4:]) <= set(ids.ALPHABET)


def test_ids_sort_by_time() -> None:
    """Any id of a later millisecond is greater, as text, whatever its random half."""
    for now_ms in (0, 1, 2**20, 1_795_000_000_000, 2**48 - 2):
        assert max(ids.new_id("p", now_ms) for _ in range(50)) < min(
            ids.new_id("p", now_ms + 1) for _ in range(50)
        )


def test_ids_of_one_millisecond_differ() -> None:
    assert len({ids.new_id("p", 1) for _ in range(10_000)}) == 10_000


def test_what_is_a_customers_lies_in_one_place() -> None:
    """Payments of one owner and what is made for them; ids still sort by time and differ."""
    place = ids.place_of("usr_1")
    assert place == ids.place_of("usr_1")
    assert len({ids.place_of(f"usr_{number}") for number in range(20_000)}) == 1024
    made = [ids.new_id("pay_", 1_795_000_000_000, place) for _ in range(1_000)]
    assert {ids.place_in(one) for one in made} == {place}
    assert len(set(made)) == 1_000
    assert max(made) < ids.new_id("pay_", 1_795_000_000_001, ids.place_of("usr_2"))
    assert ids.place_in(ids.attempt_id(made[0], 1)) == place


def test_ids_of_a_fork_and_of_threads_differ() -> None:
    """What was read of the system's chance is given out once, whoever asks."""
    ids.new_id("p", 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(ids.new_id("p", 1) for _ in range(50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        theirs = pipe.read().decode().split("p")[1:]
    assert len(theirs) == 50
    with ThreadPoolExecutor(4) as threads:
        ours = list(threads.map(lambda _: ids.new_id("p", 1)[1:], range(10_000)))
    assert len({*ours, *theirs}) == 10_050


def test_an_attempt_names_its_payment() -> None:
    payment = ids.new_id("pay_", 1_795_000_000_000)
    assert payment == ids.payment_of_attempt(ids.attempt_id(payment, 0))
    assert payment == ids.payment_of_attempt(ids.attempt_id(payment, 3))
    assert ids.attempt_id(payment, 0) != ids.attempt_id(payment, 1)


# Routes -------------------------------------------------------------------------------------


async def _nothing(request: Request) -> Response:
    return Response(204, b"")


def _route(method: str, path: str) -> Route:
    return Route(
        method=method, path=path, handler=_nothing, summary="", tag="", scope=None, answers={}
    )


TABLE = RouteTable(
    [
        _route("GET", "/v1/payments"),
        _route("POST", "/v1/payments"),
        _route("POST", "/v1/payments/quote"),
        _route("GET", "/v1/payments/{id}"),
        _route("DELETE", "/v1/payments/{id}"),
        _route("GET", "/v1/payments/{id}/refunds/{refund}"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/payments", ("/v1/payments", {})),
        ("POST", "/v1/payments", ("/v1/payments", {})),
        ("POST", "/v1/payments/quote", ("/v1/payments/quote", {})),
        ("GET", "/v1/payments/pay_1", ("/v1/payments/{id}", {"id": "pay_1"})),
        (
            "GET",
            "/v1/payments/a/refunds/b",
            ("/v1/payments/{id}/refunds/{refund}", {"id": "a", "refund": "b"}),
        ),
        ("PUT", "/v1/payments", ["GET", "POST"]),
        ("POST", "/v1/payments/pay_1", ["DELETE", "GET"]),
        # An exact path wins over a template, for every method.
        ("GET", "/v1/payments/quote", ["POST"]),
        ("GET", "/v1/payments/", None),
        ("GET", "/v1/payments/a/refunds/", None),
        ("GET", "/v1/payments/a/b", None),
        ("GET", "/V1/payments", None),
        ("GET", "v1/payments", None),
        ("GET", "", None),
    ],
)
def test_a_route_is_found(method: str, path: str, expected: Any) -> None:
    found = TABLE.find(method, path)
    if isinstance(found, Found):
        assert expected == (found.route.path, found.params)
        assert method == found.route.method
    else:
        assert expected == found


@pytest.mark.parametrize("path", ["/v1/payments", "/v1/payments/{id}"])
def test_a_route_given_twice_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="routed twice"):
        RouteTable([_route("GET", path), _route("GET", path)])


# Cursors ------------------------------------------------------------------------------------


def test_a_cursor_continues_its_own_list() -> None:
    cursors = Cursors(b"k" * 32)
    cursor = cursors.encode("pay_01", list_name="payments", bound_to="usr_1")
    assert cursors.decode(cursor, list_name="payments", bound_to="usr_1") == "pay_01"
    assert "pay_01" not in cursor


@pytest.mark.parametrize(
    ("list_name", "bound_to", "key"),
    [
        ("payments", "usr_2", b"k" * 32),
        ("cards", "usr_1", b"k" * 32),
        ("payments", "usr_1", b"other" * 8),
        # The parts are kept apart: none can borrow characters of its neighbour.
        ("paymentsusr", "_1", b"k" * 32),
    ],
)
def test_a_cursor_is_refused_elsewhere(list_name: str, bound_to: str, key: bytes) -> None:
    cursor = Cursors(b"k" * 32).encode("pay_01", list_name="payments", bound_to="usr_1")
    with pytest.raises(Problem) as raised:
        Cursors(key).decode(cursor, list_name=list_name, bound_to=bound_to)
    assert raised.value.kind.slug == "invalid-cursor"


@pytest.mark.parametrize("change", ["", "x", "====", "\xff", "A" * 500, "a b", "%"])
def test_what_is_no_cursor_is_refused(change: str) -> None:
    with pytest.raises(Problem) as raised:
        Cursors(b"k" * 32).decode(change, list_name="payments", bound_to="usr_1")
    assert raised.value.kind.slug == "invalid-cursor"


def test_a_changed_cursor_is_refused() -> None:
    """One changed character anywhere is enough."""
    cursors = Cursors(b"k" * 32)
    cursor = cursors.encode("pay_01", list_name="payments", bound_to="usr_1")
    # The last character's low bits may be padding; every other one counts whole.
    for place in range(len(cursor) - 1):
        other = "A" if cursor[place] != "A" else "B"
        with pytest.raises(Problem):
            cursors.decode(
                cursor[:place] + other + cursor[place + 1 :],
                list_name="payments",
                bound_to="usr_1",
            )


@dataclass
class Wanted:
    """What a client says of a page."""

    limit: int
    cursor: str | None = None


@pytest.mark.parametrize(("there_are", "sizes"), [(0, [0]), (2, [2]), (3, [2, 1]), (4, [2, 2])])
def test_pages_hold_every_row_once(there_are: int, sizes: list[int]) -> None:
    """One row more than is shown tells that a page follows; the last page says that none does."""
    cursors, rows = Cursors(b"k" * 32), list(range(1, there_are + 1))
    shown: list[list[int]] = []
    wanted = Wanted(2)
    while True:
        page = cursors.page("payments", wanted, "usr_1", None)
        after = int(page.position or "0")
        read = [row for row in rows if row > after][: page.limit]
        cut, following = page.cut(read, str)
        shown.append(cut)
        if following is None:
            break
        wanted = Wanted(2, following)
    assert [len(one) for one in shown] == sizes
    assert [row for one in shown for row in one] == rows


@pytest.mark.parametrize(
    ("list_name", "bound_to"),
    [("cards", ("usr_1", None)), ("payments", ("usr_2", None)), ("payments", ("usr_1", "failed"))],
)
def test_a_page_is_of_the_list_owner_and_filter_it_was_begun_with(
    list_name: str, bound_to: tuple[str | None, ...]
) -> None:
    cursors = Cursors(b"k" * 32)
    _, following = cursors.page("payments", Wanted(1), "usr_1", None).cut(["b", "a"], str)
    with pytest.raises(Problem) as raised:
        cursors.page(list_name, Wanted(1, following), *bound_to)
    assert raised.value.kind.slug == "invalid-cursor"


# Settings -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the configuration that a test may spoil."""
    copy = tmp_path / "config"
    shutil.copytree(settings_module.config_dir({}), copy)
    return copy


def _load(folder: Path, **environment: str) -> settings_module.Settings:
    return settings_module.load({"OQIM_CONFIG_DIR": str(folder), **environment})


def test_the_environment_comes_before_the_files(folder: Path) -> None:
    settings = _load(
        folder,
        OQIM_PORT="0",
        OQIM_WORKERS="3",
        OQIM_DATABASE_URL="postgresql://a/b",
        OQIM_REDIS_URL="redis://c",
        OQIM_DATA_DIR="/tmp/elsewhere",
        OQIM_CONNECTORS='{"visa": {"port": 1}, "new": {"a": 2}}',
    )
    assert settings.http.port == 0
    assert settings.workers == 3
    assert settings.database.url == "postgresql://a/b"
    assert settings.redis.url == "redis://c"
    assert settings.data_dir == Path("/tmp/elsewhere")
    assert settings.connector_settings["visa"]["port"] == 1
    assert settings.connector_settings["visa"]["acquirer_id"], "the file's own values stay"
    assert settings.connector_settings["new"] == {"a": 2}


def test_an_empty_variable_is_as_good_as_none(folder: Path) -> None:
    plain, empty = _load(folder), _load(folder, OQIM_PORT="", OQIM_WORKERS="", OQIM_REDIS_URL="")
    assert plain == empty


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OQIM_PORT", "http"),
        ("OQIM_PORT", "65536"),
        ("OQIM_PORT", "-1"),
        ("OQIM_WORKERS", "0"),
        ("OQIM_WORKERS", "65"),
        ("OQIM_WORKERS", "2.5"),
        ("OQIM_WORKERS", "²"),
        ("OQIM_CONNECTORS", "{"),
        ("OQIM_CONNECTORS", "[]"),
        ("OQIM_CONNECTORS", '{"visa": 1}'),
    ],
)
def test_a_bad_variable_is_named(folder: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        _load(folder, **{name: value})


@pytest.mark.parametrize(
    ("file", "before", "after", "named"),
    [
        ("settings.toml", "[http]", "[http]\nsurprise = 1", "surprise"),
        ("settings.toml", "[http]", "[surprise]\na = 1\n[http]", "surprise"),
        ("settings.toml", "port = 8080", 'port = "8080"', "http.port"),
        ("settings.toml", "[http]", "[http", "settings.toml"),
        ("routing.toml", "[[routes]]", "[[routes", "routing.toml"),
    ],
)
def test_a_bad_file_is_named(folder: Path, file: str, before: str, after: str, named: str) -> None:
    """Unknown keys are errors: a misspelt setting never silently keeps its default."""
    path = folder / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(SettingsError, match=named):
        _load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "limits.toml").unlink()
    with pytest.raises(SettingsError, match=r"limits\.toml is missing; set OQIM_CONFIG_DIR"):
        _load(folder)


# Keys ---------------------------------------------------------------------------------------


def test_keys_are_made_closed_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = secrets.create(path, ["visa", "humo"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made == secrets.load(path)
    assert set(made.callbacks) == {"visa", "humo"}
    assert len({made.lookup, made.quote, made.cursor, made.audit}) == 4


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o601])
def test_keys_that_others_can_reach_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    secrets.create(path, [])
    path.chmod(mode)
    with pytest.raises(secrets.KeysError, match="chmod 600"):
        secrets.load(path)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secrets.create(path, [])
    with pytest.raises(FileExistsError):
        secrets.create(path, [])


@pytest.mark.parametrize("content", ["", "{}", '{"vault": {}}', '{"lookup": 1}', "\x00"])
def test_a_spoilt_keys_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(secrets.KeysError, match=r"keys\.json"):
        secrets.load(path)


def test_a_missing_keys_file_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(secrets.KeysError, match="OQIM_KEYS_FILE"):
        secrets.load(tmp_path / "none.json")


def test_keys_are_not_printed(tmp_path: Path) -> None:
    keys = secrets.create(tmp_path / "keys.json", ["visa"])
    assert repr(keys) == f"{keys}" == "Keys(...)"
    assert os.environ.get("OQIM_KEYS_FILE") is None
