"""Batches as the statements take them: JSON arrays of rows, one a table; bytes in base64."""

from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.core import Staged
from gateway.kernel.audit.chain import Link, payment_document, waiting_document
from gateway.payments.entries import ActionFact, Fact, Intent
from gateway.payments.model import Attempt, Payment

_encode = msgspec.json.Encoder().encode


def _json(rows: Iterable[object]) -> str:
    return _encode(list(rows)).decode()


def states(staged: Staged | None) -> tuple[list[str], list[int], list[bytes]]:
    """Return the limit states of a staged batch: subjects, expected versions, next states."""
    if staged is None:
        return [], [], []
    return staged.subjects, staged.versions, staged.states


def decisions(batch: list[Intent]) -> list[tuple[str, str]]:
    """Return what an audit record of the batch tells: ids and documents."""
    return [(intent.payment.id, document_of(intent.payment)) for intent in batch]


def document_of(payment: Payment) -> str:
    """Return the audit document of an admitted payment."""
    return payment_document(
        id=payment.id,
        owner=payment.owner,
        client=payment.client_id,
        operation=payment.operation,
        scheme=payment.scheme,
        amount=payment.amount_minor,
        currency=payment.currency,
        source_card=payment.source_card_id,
        destination_card=payment.destination_card_id,
        merchant=payment.merchant_id,
        decision=payment.record,
    )


def waiting_document_of(payment: Payment, decision_id: str) -> str:
    """Return the audit document of the decision that a payment must wait."""
    return waiting_document(
        id=decision_id,
        payment=payment.id,
        owner=payment.owner,
        amount=payment.amount_minor,
        currency=payment.currency,
        merchant=payment.merchant_id,
        decision=payment.record,
    )


def intents(batch: list[Intent], staged: Staged, worker: int, link: Link) -> list[Any]:
    """Return the arguments of `OPEN_PAYMENTS`."""
    return [
        _json(intent.payment for intent in batch),
        _json(
            {
                "scope": intent.scope,
                "fingerprint": intent.fingerprint,
                "payment_id": intent.payment.id,
                "object_id": intent.object_id,
                "source_card_id": intent.payment.source_card_id,
                "source_version": intent.admission.source_version,
                "destination_card_id": intent.payment.destination_card_id,
            }
            for intent in batch
        ),
        _json(intent.attempt for intent in batch),
        *states(staged),
        worker,
        *link.arguments,
    ]


def waiting(payment: Payment) -> str:
    """Return the first argument of `INSERT_WAITING`."""
    return _json([payment])


def outcomes(batch: list[Fact]) -> list[Any]:
    """Return the arguments of `RECORD_OUTCOMES`."""
    return [
        _json(_payment_row(fact) for fact in batch),
        _json(_attempt_row(*pair) for fact in batch for pair in fact.attempts),
        _json(fact.entry for fact in batch if fact.entry is not None),
        _json(_event_row(fact) for fact in batch if fact.event is not None),
    ]


def facts(batch: list[Fact], staged: Staged | None, worker: int) -> list[Any]:
    """Return the arguments of `RECORD_FACTS`."""
    return [
        *outcomes(batch),
        _json(attempt for fact in batch for attempt in fact.sent),
        _json(_action_row(fact.action) for fact in batch if fact.action is not None),
        [fact.frees for fact in batch if fact.frees is not None],
        *states(staged),
        worker,
    ]


def _payment_row(fact: Fact) -> dict[str, object]:
    payment = fact.payment
    status, body = fact.response or (None, None)
    return {
        "id": payment.id,
        "version": payment.version,
        "status": payment.status,
        "total_debit": payment.total_debit,
        "total_credit": payment.total_credit,
        "commission_total": payment.commission_total,
        "commission_vat": payment.commission_vat,
        "commission_lines": payment.commission_lines if fact.with_commission_lines else None,
        "commission_split": payment.commission_split if fact.with_commission_lines else None,
        "commission_returned": payment.commission_returned,
        "commission_returning": payment.commission_returning,
        "amount_capturable": payment.amount_capturable,
        "amount_received": payment.amount_received,
        "amount_refunded": payment.amount_refunded,
        "amount_refunding": payment.amount_refunding,
        "decline_code": payment.decline_code,
        "response_status": status,
        "response_body": None if body is None else body.decode(),
    }


def _attempt_row(attempt: Attempt, wait_s: float) -> dict[str, object]:
    return {
        "id": attempt.id,
        "state": attempt.state,
        "rrn": attempt.rrn,
        "approval_code": attempt.approval_code,
        "processor_code": attempt.processor_code,
        "processor_references": attempt.references,
        "outcome_source": attempt.outcome_source,
        "tries": attempt.tries,
        "wait_s": wait_s,
    }


def _event_row(fact: Fact) -> dict[str, object]:
    payment = fact.payment
    data = {
        "id": payment.id,
        "status": payment.status,
        "amount": payment.amount_minor,
        "currency": payment.currency,
        "amount_received": payment.amount_received,
        "amount_refunded": payment.amount_refunded,
    }
    return {
        "payment_id": payment.id,
        "sequence": payment.version + 1,
        "type": fact.event,
        "data": data,
    }


def _action_row(fact: ActionFact) -> dict[str, object]:
    status, body = fact.response or (None, None)
    return {
        "id": fact.action.id,
        "state": fact.action.state,
        "decline_code": fact.action.decline_code,
        "tries": fact.action.tries,
        "wait_s": fact.wait_s,
        "response_status": status,
        "response_body": None if body is None else body.decode(),
    }
