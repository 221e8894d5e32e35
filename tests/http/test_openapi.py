"""The served document is the truth: whatever is sent, the answer is one that it foretells.

Schemathesis makes requests from the document, those that fit it and those that do not, and compares
every answer with it: its status, its media type, its headers and its body.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.generation.case import Case as AnyCase
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.house import House, new_key
from tests.http.doors import SCHEMES, fresh_pan

Case = AnyCase[Any]

EXAMPLES = 20
SEED = 20260301
# Whoever these log out or spend is nobody that other tests use.
CUSTOMER = 40
PAYEE = 41

# Every route there is. One that is added is added here.
OPERATIONS = {
    "GET /admin/v1/audit",
    "POST /admin/v1/auth/login",
    "POST /admin/v1/auth/logout",
    "POST /admin/v1/auth/renew",
    "POST /admin/v1/auth/step-up",
    "POST /admin/v1/operator-proposals/{id}/approve",
    "POST /admin/v1/operator-proposals/{id}/reject",
    "GET /admin/v1/clients/{id}/limits",
    "PUT /admin/v1/clients/{id}/limits",
    "GET /admin/v1/operators",
    "GET /admin/v1/operators/{id}",
    "POST /admin/v1/operators/{id}/proposals",
    "GET /admin/v1/commission-plans",
    "POST /admin/v1/commission-plans",
    "DELETE /admin/v1/commission-plans/{id}",
    "GET /admin/v1/commission-plans/{id}",
    "POST /admin/v1/commission-plans/{id}/rollback",
    "GET /admin/v1/commission-plans/{id}/versions/{version}",
    "GET /admin/v1/limit-policies",
    "POST /admin/v1/limit-policies",
    "DELETE /admin/v1/limit-policies/{id}",
    "GET /admin/v1/limit-policies/{id}",
    "POST /admin/v1/limit-policies/{id}/rollback",
    "GET /admin/v1/limit-policies/{id}/versions/{version}",
    "GET /admin/v1/proposals",
    "GET /admin/v1/proposals/{id}",
    "POST /admin/v1/proposals/{id}/approve",
    "POST /admin/v1/proposals/{id}/reject",
    "POST /admin/v1/proposals/{id}/withdraw",
    "POST /admin/v1/payments/{id}/refunds",
    "POST /admin/v1/simulations",
    "DELETE /admin/v1/simulations/{id}",
    "GET /admin/v1/simulations/{id}",
    "GET /.well-known/jwks.json",
    "GET /.well-known/oauth-authorization-server",
    "GET /docs",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /problems",
    "GET /problems/{slug}",
    "GET /readyz",
    "GET /sandbox/v1/messages",
    "POST /oauth/introspect",
    "POST /oauth/revoke",
    "POST /oauth/token",
    "POST /v1/auth/challenges",
    "POST /v1/callbacks/{connector}",
    "POST /v1/cards",
    "GET /v1/cards",
    "GET /v1/cards/{id}",
    "DELETE /v1/cards/{id}",
    "POST /v1/cards/{id}/verify",
    "GET /v1/limits",
    "POST /v1/payments",
    "GET /v1/payments",
    "GET /v1/payments/{id}",
    "POST /v1/payments/quote",
    "POST /v1/payments/{id}/cancel",
    "POST /v1/payments/{id}/capture",
    "GET /v1/payments/{id}/refunds",
    "POST /v1/payments/{id}/refunds",
    "DELETE /v1/sessions/{id}",
    "GET /v1/sessions",
    "POST /v1/sessions/revoke-others",
    "GET /v1/payments/{id}/trace",
    "POST /v1/payments/{id}/confirm",
    "GET /admin/v1/revocations/{seq}",
    "POST /admin/v1/revocations",
    "GET /admin/v1/sessions",
    "DELETE /admin/v1/sessions/{id}",
    "GET /admin/v1/reviews",
    "GET /admin/v1/reviews/{id}",
    "POST /admin/v1/reviews/{id}/proposals",
    "POST /admin/v1/reviews/{id}/approve",
    "GET /admin/v1/money-in-doubt",
    "GET /v1/events",
    "GET /v1/webhook-endpoints",
    "POST /v1/webhook-endpoints",
    "DELETE /v1/webhook-endpoints/{id}",
    "GET /v1/webhook-endpoints/{id}",
    "POST /v1/webhook-endpoints/{id}",
    "GET /v1/webhook-endpoints/{id}/deliveries",
    "POST /v1/webhook-endpoints/{id}/deliveries/{delivery_id}/redeliver",
    "POST /v1/webhook-endpoints/{id}/rotate-secret",
    "GET /admin/v1/ledger/trial-balance",
    "GET /admin/v1/ledger/entries/{id}",
    "GET /admin/v1/reconciliation",
    "POST /admin/v1/reconciliation/imports",
    "GET /admin/v1/reconciliation/breaks",
    "GET /admin/v1/reconciliation/breaks/{id}",
    "POST /admin/v1/reconciliation/breaks/{id}/proposals",
    "POST /admin/v1/reconciliation/breaks/{id}/approve",
}
# What a merchant's server may do as well.
# They say 401 of what the body or the request itself is signed with, not of the token.
LOGINS = ("POST /oauth/", "POST /v1/callbacks/", "POST /admin/v1/auth/login")
MERCHANT_OPERATIONS = {
    "POST /v1/payments",
    "POST /v1/payments/quote",
    "GET /v1/payments",
    "GET /v1/payments/{id}",
    "GET /v1/payments/{id}/refunds",
    "POST /v1/payments/{id}/refunds",
    "GET /v1/events",
    "GET /v1/webhook-endpoints",
    "POST /v1/webhook-endpoints",
    "DELETE /v1/webhook-endpoints/{id}",
    "GET /v1/webhook-endpoints/{id}",
    "POST /v1/webhook-endpoints/{id}",
    "GET /v1/webhook-endpoints/{id}/deliveries",
    "POST /v1/webhook-endpoints/{id}/deliveries/{delivery_id}/redeliver",
    "POST /v1/webhook-endpoints/{id}/rotate-secret",
}


def no_fault(ctx: CheckContext, response: Response, case: Case) -> bool | None:
    """Nothing that is sent makes the gateway fail; a deadline that has passed is no failure."""
    if response.status_code == 504:
        assert "Deadline-Ms" in case.headers, "504 without a deadline"
    else:
        assert response.status_code < 500, response.text
    return None


CHECKS = [
    no_fault,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@dataclass(slots=True)
class Described:
    """A house and the document it serves."""

    house: House
    document: dict[str, Any]
    operations: dict[str, APIOperation[Any, Any, Any, Any]]

    async def fuzz(
        self,
        label: str,
        mode: GenerationMode,
        *,
        token: str,
        examples: int = EXAMPLES,
        path_parameters: dict[str, str] | None = None,
        change: Callable[[Case], None] | None = None,
    ) -> list[int]:
        """Send what the document makes of an operation, and return the statuses answered.

        Args:
            change: makes a case more to the point; it must still fit the document.
        """
        operation = self.operations[label]
        strategy = operation.as_strategy(generation_mode=mode, path_parameters=path_parameters)
        statuses: list[int] = []

        @hypothesis.seed(SEED)
        @hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def run(case: Case) -> None:
            if change is not None:
                change(case)
            response = case.call_and_validate(
                base_url=self.house.base_url,
                headers={"Authorization": f"Bearer {token}"},
                checks=CHECKS,
                timeout=10,
            )
            statuses.append(response.status_code)

        # It is synchronous, and the house's own client lives in this loop.
        await asyncio.to_thread(run)
        return statuses


@pytest.fixture(scope="module")
async def described(house: House) -> Described:
    return describe(house, (await house.call("GET", "/openapi.json")).body)


def describe(house: House, document: dict[str, Any]) -> Described:
    """Return a document's operations, ready to be made requests of."""
    operations = {}
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok), "the document can be read"
        operation = found.ok()
        operations[operation.label] = operation
    return Described(house, document, operations)


async def test_every_route_is_described(described: Described) -> None:
    """No more and no less than what there is."""
    paths = described.document["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert served == OPERATIONS
    assert set(described.operations) == OPERATIONS


@pytest.mark.parametrize("label", sorted(OPERATIONS))
async def test_every_route_described_is_routed(described: Described, label: str) -> None:
    """The path answers the method: what is not found is an object, never the path."""
    method, path = label.split(" ")
    token = described.house.user(CUSTOMER)["access_token"]
    # A stream ends when the caller's patience does.
    headers = {"Deadline-Ms": "500"} if path == "/v1/events" else None
    target = path.replace("{", "").replace("}", "")
    reply = await described.house.call(method, target, token=token, headers=headers)
    assert reply.code != "method-not-allowed"
    if reply.code == "not-found":
        assert reply.body["detail"] != "There is no such path."


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", sorted(OPERATIONS))
async def test_every_answer_to_a_customer_is_foretold(
    described: Described, label: str, mode: GenerationMode
) -> None:
    if mode is GenerationMode.NEGATIVE and not can_be_spoilt(described.document, label):
        pytest.skip("there is nothing to spoil in it")
    token = described.house.user(CUSTOMER)["access_token"]
    statuses = await described.fuzz(label, mode, token=token, change=end_soon)
    assert statuses, "nothing was sent"
    assert 401 not in statuses or label.startswith(LOGINS), "the customer was logged out"


Forget = Callable[[dict[str, Any]], object]
FORGETS: dict[str, Forget] = {
    "a status": lambda answers: answers.pop("404"),
    "a media type": lambda answers: answers["404"].update({"content": {"text/plain": {}}}),
    "a member": lambda answers: answers["404"]["content"]["application/problem+json"].update(
        {"schema": {"type": "object", "required": ["surprise"]}}
    ),
    "a header": lambda answers: answers["404"]["headers"].update(
        {"X-Surprise": {"required": True, "schema": {"type": "string"}}}
    ),
}


@pytest.mark.parametrize("forget", FORGETS.values(), ids=FORGETS)
async def test_an_answer_that_is_not_foretold_is_found(
    described: Described, forget: Forget
) -> None:
    """What the tests above rest on: a document that is wrong about an answer is caught."""
    document = copy.deepcopy(described.document)
    forget(document["paths"]["/v1/payments/{id}"]["get"]["responses"])
    wrong = describe(described.house, document)
    token = described.house.user(CUSTOMER)["access_token"]
    with pytest.raises(FailureGroup):
        await wrong.fuzz("GET /v1/payments/{id}", GenerationMode.POSITIVE, token=token)


def end_soon(case: Case) -> None:
    """Have a stream end by itself, where one might be answered."""
    if case.operation.label == "GET /v1/events":
        case.headers["Deadline-Ms"] = "50"


def can_be_spoilt(document: dict[str, Any], label: str) -> bool:
    """Whether an operation takes anything that could be wrong."""
    method, path = label.split(" ")
    operation = document["paths"][path][method.lower()]
    return bool(operation["parameters"] or "requestBody" in operation)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", sorted(MERCHANT_OPERATIONS))
async def test_every_answer_to_a_merchant_is_foretold(
    described: Described, label: str, mode: GenerationMode
) -> None:
    token = await described.house.merchant_token()
    statuses = await described.fuzz(label, mode, token=token, change=end_soon)
    assert statuses, "nothing was sent"
    assert 401 not in statuses


# With what there really is ------------------------------------------------------------------------


def body_of(case: Case) -> dict[str, Any]:
    """Return the body of a case, to be changed in place."""
    assert isinstance(case.body, dict), "the operation takes an object"
    return case.body


def keyed(case: Case) -> None:
    """Give a case a key of its own, so that no answer is an earlier one's."""
    case.headers["Idempotency-Key"] = new_key()
    case.headers.pop("Deadline-Ms", None)


@pytest.mark.parametrize("operation", ["purchase", "transfer"])
@pytest.mark.parametrize("path", ["/v1/payments", "/v1/payments/quote"])
async def test_a_payment_that_is_made_is_foretold(
    described: Described, path: str, operation: str
) -> None:
    """The members that decide are real, all others are made up: most of these are paid."""
    house = described.house
    turn = iter(range(10_000))

    def change(case: Case) -> None:
        keyed(case)
        scheme = SCHEMES[next(turn) % len(SCHEMES)]
        amount = body_of(case)["amount"] % 1_000_000 + 100_000
        if operation == "purchase":
            real = house.purchase(CUSTOMER, scheme, amount)
        else:
            real = house.transfer(CUSTOMER, "humo", PAYEE, "uzcard", amount)
        body_of(case).update(real | {"quote_id": None, "capture": "automatic"})

    token = house.user(CUSTOMER)["access_token"]
    statuses = await described.fuzz(
        f"POST {path}", GenerationMode.POSITIVE, token=token, change=change
    )
    good = {"/v1/payments": {201, 202}, "/v1/payments/quote": {200}}[path]
    assert good & set(statuses), f"none was taken: {statuses}"


async def test_a_payout_is_foretold(described: Described) -> None:
    house = described.house

    def change(case: Case) -> None:
        keyed(case)
        body_of(case).update(
            {
                "operation": "payout",
                "amount": body_of(case)["amount"] % 1_000_000 + 100_000,
                "currency": "UZS",
                "source": None,
                "destination": {"card": house.user(PAYEE)["cards"]["humo"]},
                "capture": None,
                "quote_id": None,
            }
        )

    statuses = await described.fuzz(
        "POST /v1/payments",
        GenerationMode.POSITIVE,
        token=await house.merchant_token(),
        change=change,
    )
    assert {201, 202} & set(statuses), f"none was taken: {statuses}"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("action", ["capture", "cancel", "refunds"])
async def test_what_is_done_to_a_payment_is_foretold(
    described: Described, scheme: str, action: str
) -> None:
    """A hold is captured or cancelled, a purchase refunded bit by bit; afterwards it is refused."""
    house = described.house
    changes = {} if action == "refunds" else {"capture": "manual"}
    paid = await house.pay(CUSTOMER, house.purchase(CUSTOMER, scheme, 5_000_000, **changes))
    assert paid.status == 201, paid.raw

    def change(case: Case) -> None:
        keyed(case)
        if isinstance(case.body, dict) and body_of(case).get("amount") is not None:
            case.body["amount"] = 1 + body_of(case)["amount"] % 4_000_000

    token = house.user(CUSTOMER)["access_token"]
    statuses = await described.fuzz(
        f"POST /v1/payments/{{id}}/{action}",
        GenerationMode.POSITIVE,
        token=token,
        path_parameters={"id": paid.body["id"]},
        change=change,
    )
    assert {200, 201, 202} & set(statuses), f"nothing was done: {statuses}"
    for path in ("/v1/payments/{id}", "/v1/payments/{id}/refunds"):
        read = await described.fuzz(
            f"GET {path}",
            GenerationMode.POSITIVE,
            token=token,
            examples=5,
            path_parameters={"id": paid.body["id"]},
        )
        assert 200 in read


async def test_a_card_that_is_added_is_foretold(described: Described) -> None:
    """Added with a code on its way, read, tried with codes until it is locked, removed."""
    house = described.house
    token = house.user(CUSTOMER)["access_token"]

    def add(case: Case) -> None:
        case.headers.pop("Deadline-Ms", None)
        body_of(case).pop("cvv", None)
        body_of(case).update({"pan": fresh_pan("98600900"), "expiry": "40-12"})

    statuses = await described.fuzz(
        "POST /v1/cards", GenerationMode.POSITIVE, token=token, examples=10, change=add
    )
    assert 201 in statuses, f"none was added: {statuses}"
    listed = await house.call("GET", "/v1/cards?limit=1", token=token)
    card = {"id": listed.body["data"][0]["id"]}
    for label, status in (
        ("GET /v1/cards/{id}", 200),
        ("POST /v1/cards/{id}/verify", 422),
        ("DELETE /v1/cards/{id}", 204),
    ):
        answered = await described.fuzz(
            label, GenerationMode.POSITIVE, token=token, examples=8, path_parameters=card
        )
        assert status in answered, f"{label}: {answered}"


async def test_a_webhook_endpoint_is_foretold(described: Described) -> None:
    """Added until there are too many, changed, read, given a new secret, removed."""
    house = described.house
    token = await house.merchant_token()

    def name(case: Case) -> None:
        case.headers.pop("Deadline-Ms", None)
        if isinstance(case.body, dict):
            case.body["url"] = "https://shop.example.uz/hooks"

    statuses = await described.fuzz(
        "POST /v1/webhook-endpoints", GenerationMode.POSITIVE, token=token, change=name
    )
    assert {201, 409} <= set(statuses), f"none was added, or too many: {statuses}"
    listed = await house.call("GET", "/v1/webhook-endpoints?limit=1", token=token)
    endpoint = {"id": listed.body["data"][0]["id"]}
    for label, status, change in (
        ("GET /v1/webhook-endpoints/{id}", 200, None),
        ("POST /v1/webhook-endpoints/{id}", 200, name),
        ("POST /v1/webhook-endpoints/{id}/rotate-secret", 200, None),
        ("GET /v1/webhook-endpoints/{id}/deliveries", 200, None),
        ("DELETE /v1/webhook-endpoints/{id}", 204, None),
    ):
        answered = await described.fuzz(
            label,
            GenerationMode.POSITIVE,
            token=token,
            examples=8,
            path_parameters=endpoint,
            change=change,
        )
        assert status in answered, f"{label}: {answered}"
    left = await house.call("GET", "/v1/webhook-endpoints?limit=100", token=token)
    for one in left.body["data"]:
        await house.call("DELETE", f"/v1/webhook-endpoints/{one['id']}", token=token)


async def test_a_limit_is_foretold(described: Described) -> None:
    house = described.house

    def change(case: Case) -> None:
        case.query["card"] = house.user(CUSTOMER)["cards"]["visa"]

    statuses = await described.fuzz(
        "GET /v1/limits",
        GenerationMode.POSITIVE,
        token=house.user(CUSTOMER)["access_token"],
        change=change,
    )
    assert 200 in statuses, f"none was read: {statuses}"


async def test_tokens_are_foretold(described: Described) -> None:
    """The merchant logs in with whatever else a form may hold, and asks of its own token."""
    house = described.house
    asked = {
        "client_id": house.merchant["client_id"],
        "client_secret": house.merchant["client_secret"],
    }
    token = await house.merchant_token()

    def log_in(case: Case) -> None:
        case.headers.pop("Deadline-Ms", None)
        body_of(case).pop("scope", None)
        body_of(case).update(asked | {"grant_type": "client_credentials"})

    def ask(case: Case) -> None:
        case.headers.pop("Deadline-Ms", None)
        body_of(case).update(asked | {"token": token})

    for label, change in (
        ("POST /oauth/token", log_in),
        ("POST /oauth/introspect", ask),
        ("POST /oauth/revoke", ask),
    ):
        statuses = await described.fuzz(
            label, GenerationMode.POSITIVE, token=token, examples=5, change=change
        )
        assert 200 in statuses, f"{label}: {statuses}"
