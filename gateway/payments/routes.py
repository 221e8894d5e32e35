"""HTTP in and out of payments."""

from gateway.core import Core, Refusal
from gateway.kernel import scopes
from gateway.kernel.http.admission import Priority
from gateway.kernel.http.cursors import Cursors
from gateway.kernel.http.messages import Request, Response, json_response
from gateway.kernel.http.problems import Problem, RefusedByCore
from gateway.kernel.http.read import body_as, no_body, optional_body_as, query_as
from gateway.kernel.http.routes import Route
from gateway.payments.actions import Actions
from gateway.payments.bodies import (
    CaptureBody,
    ConfirmBody,
    LimitsQuery,
    ListQuery,
    PaymentBody,
    RefundBody,
    TraceQuery,
    check_amount,
)
from gateway.payments.callbacks import Callbacks
from gateway.payments.reads import Reads
from gateway.payments.refusals import Refusals
from gateway.payments.service import Payments
from gateway.payments.step_up import Stated
from gateway.payments.supply import Supply
from gateway.payments.trace import TraceView, View, trace
from gateway.payments.views import (
    Accepted,
    LimitsView,
    PaymentPage,
    PaymentView,
    QuoteView,
    RefundList,
    RefundView,
    payment_json,
    payment_view,
    refund_view,
)

_TAG = "payments"
_OPERATOR_SCOPE = scopes.PAYMENTS_READ
_LIST = "payments"
_FIRST = "pay_~"
_IDEMPOTENCY = (
    "idempotency-key-missing",
    "idempotency-key-invalid",
    "idempotency-key-reused",
    "idempotency-in-progress",
)
_DECISION = (
    "invalid-amount",
    "invalid-currency",
    "not-found",
    "card-not-active",
    "quote-invalid",
    "commission-plan-missing",
    "commission-exceeds-amount",
    "limit-exceeded",
)


class PaymentRoutes:
    """The handlers, thin over the services."""

    def __init__(
        self,
        *,
        core: Core,
        supply: Supply,
        payments: Payments,
        actions: Actions,
        callbacks: Callbacks,
        reads: Reads,
        refusals: Refusals,
        cursors: Cursors,
    ) -> None:
        self._core = core
        self._supply = supply
        self._payments = payments
        self._actions = actions
        self._callbacks = callbacks
        self._reads = reads
        self._refusals = refusals
        self._cursors = cursors

    async def quote(self, request: Request) -> Response:
        answer: bytes | Refusal = await self._supply.decided(
            lambda fresh: self._core.quote(
                request.method,
                request.path,
                request.raw_headers,
                request.body,
                request.received_at_ms,
                fresh,
            ),
        )
        if isinstance(answer, Refusal):
            raise RefusedByCore(answer)
        return Response(200, answer)

    async def get(self, request: Request) -> Response:
        found = await self._reads.visible(request.params["id"], request.who.sub)
        if found is None:
            raise Problem("not-found", "There is no such payment.")
        return Response(200, payment_json(*found))

    async def trace(self, request: Request) -> Response:
        """Tell why; an operator may see every payment, in every view."""
        query = query_as(request, TraceQuery)
        who = request.who
        is_operator = _OPERATOR_SCOPE in who.scope
        view: View = "merchant" if who.sub.startswith("mer_") else "customer"
        if is_operator:
            view = query.view or "operator"
        elif query.view not in (None, view):
            raise Problem("insufficient-scope", "This view is for operators.")
        sought = None if is_operator else who.sub
        decision_id = request.params["id"]
        found = await self._reads.visible(decision_id, sought)
        if found is not None:
            payment, attempts = found
            answer = trace(payment.id, payment.record, view, payment=payment, attempts=attempts)
            return json_response(200, answer)
        refused = await self._refusals.visible(decision_id, sought)
        if refused is None:
            raise Problem("not-found", "There is no such payment or refusal.")
        return json_response(200, trace(*refused, view))

    async def confirm(self, request: Request) -> Response:
        body = body_as(request, ConfirmBody)
        said = Stated(body.code, body.amount, body.currency, body.destination, body.nonce)
        return await self._payments.confirm(request, said)

    async def page(self, request: Request) -> Response:
        query = query_as(request, ListQuery)
        owner = request.who.sub
        page = self._cursors.page(_LIST, query, owner, query.status)
        before = page.position or _FIRST
        rows = await self._reads.page(owner, before=before, status=query.status, limit=page.limit)
        shown, following = page.cut(rows, lambda row: row[0].id)
        return json_response(200, PaymentPage([payment_view(*row) for row in shown], following))

    async def capture(self, request: Request) -> Response:
        body = optional_body_as(request, CaptureBody)
        check_amount(body.amount)
        return await self._actions.act(
            request, "capture", request.params["id"], amount_minor=body.amount
        )

    async def cancel(self, request: Request) -> Response:
        no_body(request)
        return await self._actions.act(request, "cancel", request.params["id"])

    async def refund(self, request: Request) -> Response:
        body = optional_body_as(request, RefundBody)
        check_amount(body.amount)
        return await self._actions.act(
            request,
            "refund",
            request.params["id"],
            amount_minor=body.amount,
            reason=body.reason,
        )

    async def refunds(self, request: Request) -> Response:
        found = await self._reads.visible(request.params["id"], request.who.sub)
        if found is None:
            raise Problem("not-found", "There is no such payment.")
        payment, _ = found
        actions = await self._reads.refunds(payment.id)
        views = [refund_view(one, payment.currency) for one in actions]
        return json_response(200, RefundList(views, None))

    async def limits(self, request: Request) -> Response:
        query = query_as(request, LimitsQuery)
        answer: bytes | Refusal = await self._supply.decided(
            lambda fresh: self._core.limits(
                request.who, query.card, query.operation, request.received_at_ms, fresh
            ),
        )
        if isinstance(answer, Refusal):
            raise RefusedByCore(answer)
        return Response(200, answer)

    async def callback(self, request: Request) -> Response:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in request.raw_headers
        }
        await self._callbacks.receive(request.params["connector"], headers, request.body)
        return json_response(200, Accepted(True))


def routes(handlers: PaymentRoutes, payments: Payments) -> list[Route]:
    """Return the room's routes."""
    return [
        Route(
            method="POST",
            path="/v1/payments",
            handler=payments.pay,
            summary="Pay: a purchase, a transfer or a payout",
            tag=_TAG,
            scope="payments:write",
            priority=Priority.PAYMENT,
            body=PaymentBody,
            answers={201: PaymentView, 202: PaymentView},
            problems=(
                *_IDEMPOTENCY,
                *_DECISION,
                "quote-expired",
                "otp-locked",
                "revocation-feed-stale",
                "processor-unavailable",
                "overloaded",
                "deadline-exceeded",
            ),
            is_idempotent=True,
            is_hot=True,
        ),
        Route(
            method="POST",
            path="/v1/payments/quote",
            handler=handlers.quote,
            summary="Quote: what a payment would cost, promised for a while",
            tag=_TAG,
            scope="payments:write",
            priority=Priority.READ,
            body=PaymentBody,
            answers={200: QuoteView},
            problems=_DECISION,
            is_hot=True,
        ),
        Route(
            method="GET",
            path="/v1/payments",
            handler=handlers.page,
            summary="List payments, newest first",
            tag=_TAG,
            scope="payments:read",
            priority=Priority.READ,
            query=ListQuery,
            answers={200: PaymentPage},
            problems=("invalid-query", "invalid-cursor"),
        ),
        Route(
            method="GET",
            path="/v1/payments/{id}",
            handler=handlers.get,
            summary="Get a payment",
            tag=_TAG,
            scope="payments:read",
            priority=Priority.READ,
            answers={200: PaymentView},
            problems=("not-found",),
        ),
        Route(
            method="GET",
            path="/v1/payments/{id}/trace",
            handler=handlers.trace,
            summary="Why: the decisions on a payment, or on a refusal by the id of either",
            tag=_TAG,
            scope="payments:read",
            priority=Priority.READ,
            query=TraceQuery,
            answers={200: TraceView},
            problems=("not-found", "invalid-query"),
        ),
        *_action_routes(handlers),
        Route(
            method="GET",
            path="/v1/limits",
            handler=handlers.limits,
            summary="Headroom of a card for an operation",
            tag="limits",
            scope="limits:read",
            priority=Priority.READ,
            query=LimitsQuery,
            answers={200: LimitsView},
            problems=("not-found", "invalid-query"),
        ),
        Route(
            method="POST",
            path="/v1/callbacks/{connector}",
            handler=handlers.callback,
            summary="Take a processor's callback, verified on its raw bytes",
            tag="callbacks",
            scope=None,
            priority=Priority.SETTLING,
            answers={200: Accepted},
            problems=(
                "not-found",
                "callback-invalid",
                "callback-signature-invalid",
                "callback-timestamp-invalid",
                "callback-conflict",
            ),
        ),
    ]


def _action_routes(handlers: PaymentRoutes) -> list[Route]:
    shared = ("not-found", "invalid-state", "processor-unavailable", "revocation-feed-stale")
    return [
        Route(
            method="POST",
            path="/v1/payments/{id}/confirm",
            handler=handlers.confirm,
            summary="Confirm a payment in `requires_action` with the code that was sent",
            tag=_TAG,
            scope="payments:write",
            priority=Priority.PAYMENT,
            body=ConfirmBody,
            answers={201: PaymentView, 202: PaymentView},
            problems=(
                *_IDEMPOTENCY,
                *shared,
                "otp-invalid",
                "otp-expired",
                "otp-locked",
                "otp-already-used",
                "sca-binding-mismatch",
                "quote-expired",
                "limit-exceeded",
            ),
            is_idempotent=True,
        ),
        Route(
            method="POST",
            path="/v1/payments/{id}/capture",
            handler=handlers.capture,
            summary="Capture a hold, in whole or in part",
            tag=_TAG,
            scope="payments:capture",
            priority=Priority.SETTLING,
            body=CaptureBody,
            answers={200: PaymentView, 202: PaymentView},
            problems=(
                *_IDEMPOTENCY,
                *shared,
                "invalid-amount",
                "capture-exceeds-authorized",
                "commission-exceeds-amount",
            ),
            is_idempotent=True,
        ),
        Route(
            method="POST",
            path="/v1/payments/{id}/cancel",
            handler=handlers.cancel,
            summary="Cancel a hold",
            tag=_TAG,
            scope="payments:capture",
            priority=Priority.SETTLING,
            answers={200: PaymentView, 202: PaymentView},
            problems=(*_IDEMPOTENCY, *shared),
            is_idempotent=True,
        ),
        Route(
            method="POST",
            path="/v1/payments/{id}/refunds",
            handler=handlers.refund,
            summary="Refund a purchase, in whole or in part",
            tag=_TAG,
            scope="payments:refund",
            priority=Priority.SETTLING,
            body=RefundBody,
            answers={201: RefundView},
            problems=(
                *_IDEMPOTENCY,
                *shared,
                "invalid-amount",
                "refund-exceeds-captured",
                "refund-not-supported",
            ),
            is_idempotent=True,
        ),
        Route(
            method="GET",
            path="/v1/payments/{id}/refunds",
            handler=handlers.refunds,
            summary="List a payment's refunds",
            tag=_TAG,
            scope="payments:read",
            priority=Priority.READ,
            answers={200: RefundList},
            problems=("not-found",),
        ),
    ]
