"""What operators are answered is what the served document foretells."""

from __future__ import annotations

import pytest
from schemathesis import GenerationMode

from tests.house import new_key
from tests.http.test_openapi import Case as AnyCase
from tests.http.test_openapi import Described, body_of, can_be_spoilt, describe
from tests.rulebook.office import PLANS, POLICIES, PROPOSALS, SIMULATIONS, Office, plan, policy

EXAMPLES = 12


@pytest.fixture(scope="module")
async def described(office: Office) -> Described:
    return describe(office.house, (await office.house.call("GET", "/openapi.json")).body)


def _labels() -> list[str]:
    rules = [
        f"{verb}"
        for path in (PLANS, POLICIES)
        for verb in (
            f"GET {path}", f"POST {path}", f"GET {path}/{{id}}", f"DELETE {path}/{{id}}",
            f"GET {path}/{{id}}/versions/{{version}}", f"POST {path}/{{id}}/rollback",
        )
    ]  # fmt: skip
    return [
        *rules,
        f"GET {PROPOSALS}",
        f"GET {PROPOSALS}/{{id}}",
        f"POST {PROPOSALS}/{{id}}/approve",
        f"POST {PROPOSALS}/{{id}}/reject",
        f"POST {PROPOSALS}/{{id}}/withdraw",
        "POST /admin/v1/payments/{id}/refunds",
        "GET /admin/v1/sessions",
        "DELETE /admin/v1/sessions/{id}",
        f"POST {SIMULATIONS}",
        f"GET {SIMULATIONS}/{{id}}",
        f"DELETE {SIMULATIONS}/{{id}}",
        "GET /admin/v1/audit",
    ]


LABELS = _labels()


async def test_every_route_of_operators_is_tried(described: Described) -> None:
    assert {label for label in described.operations if "/admin/v1/" in label} >= set(LABELS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", LABELS)
async def test_every_answer_to_an_operator_is_foretold(
    described: Described, office: Office, label: str, mode: GenerationMode
) -> None:
    if mode is GenerationMode.NEGATIVE and not can_be_spoilt(described.document, label):
        pytest.skip("there is nothing to spoil in it")
    statuses = await described.fuzz(label, mode, token=office.token(0), examples=EXAMPLES)
    assert statuses, "nothing was sent"
    assert not {401, 403} & set(statuses), "an operator may do all of it"


@pytest.mark.parametrize(("path", "body"), [(PLANS, plan("seen")), (POLICIES, policy("seen"))])
async def test_what_there_is_is_shown_as_foretold(
    described: Described, office: Office, path: str, body: dict[str, object]
) -> None:
    """Objects that exist: a rule with versions, ended and scheduled, and their proposals."""
    proposal = await office.propose(path, body)
    await office.approve(proposal)
    await office.put(path, body | {"priority": 903, "effective_from": "2999-01-01T00:00:00+05:00"})
    await office.what_if(proposal)
    shown = {
        f"GET {path}": {},
        f"GET {path}/{{id}}": {"id": "seen"},
        f"GET {path}/{{id}}/versions/{{version}}": {"id": "seen", "version": "1"},
        f"GET {PROPOSALS}": {},
        f"GET {PROPOSALS}/{{id}}": {"id": proposal["id"]},
    }
    for label, parameters in shown.items():
        statuses = await described.fuzz(
            label,
            GenerationMode.POSITIVE,
            token=office.token(0),
            examples=4,
            path_parameters=parameters,
        )
        assert 200 in statuses, label
    await office.delete(path, "seen")
    statuses = await described.fuzz(
        f"GET {path}/{{id}}",
        GenerationMode.POSITIVE,
        token=office.token(0),
        examples=2,
        path_parameters={"id": "seen"},
    )
    assert set(statuses) == {200}, "what has ended is shown by its last version"


@pytest.mark.parametrize(("path", "body"), [(PLANS, plan("made")), (POLICIES, policy("made"))])
async def test_what_is_proposed_is_foretold(
    described: Described, office: Office, path: str, body: dict[str, object]
) -> None:
    def change(case: AnyCase) -> None:
        case.headers.pop("Deadline-Ms", None)
        body_of(case).clear()
        body_of(case).update(body | {"id": new_key()})

    statuses = await described.fuzz(
        f"POST {path}",
        GenerationMode.POSITIVE,
        token=office.token(0),
        examples=3,
        change=change,
    )
    assert set(statuses) == {201}
