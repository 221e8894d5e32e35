"""What a developer who meets a problem should do, one text a slug of the core's table.

A slug without a text is a failing test (`tests/kernel/test_pages.py`).
"""

_SAME_KEY = "Send the same request again with the same `Idempotency-Key`"

ADVICE: dict[str, str] = {
    "malformed-request": "Send HTTP/1.1 through a library: the request line, a header or the "
    "framing of the body cannot be read. The connection is closed after this answer.",
    "invalid-request": "Read the detail: it names the part of the request that is not well formed.",
    "not-found": "Check the path and the id. An object of another client, another customer or "
    "another environment is answered exactly as one that does not exist.",
    "method-not-allowed": "Use one of the methods that the answer's `Allow` header names.",
    "not-acceptable": "Send `Accept: application/json`, or no `Accept` at all.",
    "request-timeout": "The connection stayed silent before the request was whole. Send it "
    "again, with the same `Idempotency-Key` if it moves money.",
    "payload-too-large": "Send at most 64 KiB. Keep long texts on your side, and a reference "
    "to them in `metadata`.",
    "uri-too-long": "Shorten the query: filters belong in few parameters, cursors are sent as "
    "given.",
    "unsupported-media-type": "Send `Content-Type: application/json` (the OAuth endpoints "
    "take `application/x-www-form-urlencoded`), in UTF-8.",
    "unsupported-content-encoding": "Switch compression of request bodies off in your client.",
    "header-too-large": "Shorten the header: 8 KiB is the most one may have. Cookies are not "
    "used here and need not be sent.",
    "unauthenticated": "Send `Authorization: Bearer` with an access token of `POST /oauth/token`.",
    "invalid-token": "Get a new access token with your refresh token, once. If that is "
    "refused too, the session has ended: ask the customer to log in again.",
    "invalid-client": "Check the client's id and secret; the secret is shown once, when it is "
    "made. A client with keys sends an assertion instead (`private_key_jwt`): the detail says what "
    "is wrong with it.",
    "invalid-dpop-proof": "Make a new proof for each request (RFC 9449): by the key that the token "
    "is bound to, with `htm`, `htu` without query, `iat` of now, a `jti` never used before, and "
    "`ath`, the hash of the token. Send it as `DPoP`, and the token as `Authorization: DPoP`.",
    "use-dpop-nonce": "Put the nonce of the answer's `DPoP-Nonce` header into a new proof, and "
    "send the request again.",
    "insufficient-scope": "The detail names the scope. Ask for a token that has it, or ask "
    "your bank to grant it to your client.",
    "client-network-not-allowed": "Ask from one of the addresses that your bank knows, or ask "
    "it to allow this one. Addresses that headers name are not believed.",
    "origin-not-allowed": "Ask your bank to allow your page's origin (`cors_origins`), or ask "
    "from your server: only browsers send `Origin`.",
    "invalid-grant": "Start again: log in for a new one-time code, or a new refresh token. A "
    "refresh token that was used twice ends its whole session, because one of the two users "
    "stole it.",
    "device-limit-reached": "Ask the customer to log out on a device that is no longer used "
    "(`DELETE /v1/sessions/{id}` there), or the bank to do it.",
    "unauthorized-client": "Use another client: this one may not use this grant type.",
    "invalid-scope": "Ask for scopes that the client may have, separated by one space each, or for "
    "none: all are granted then. A refresh cannot ask for more than its login did.",
    "unsupported-grant-type": "Use one of the grants that /.well-known/oauth-authorization- "
    "server lists.",
    "otp-invalid": "Ask the customer to type the code again. After three wrong ones the "
    "challenge is locked.",
    "otp-expired": "Ask for a new challenge; a code lives for less than a minute.",
    "otp-already-used": "Use the tokens that the code was exchanged for, or ask for a new "
    "challenge.",
    "otp-locked": "Wait as long as `Retry-After` says before asking for another code.",
    "rate-limited": "Wait as long as `Retry-After` says, then go on more slowly: `RateLimit` tells "
    "with every answer how many requests are left, and in how many seconds all of them are back.",
    "idempotency-key-missing": "Make one key a payment (a UUID will do), store it with your "
    "order, and send it again whenever you repeat the request.",
    "idempotency-key-invalid": "Send one key of 1 to 255 printable ASCII characters.",
    "idempotency-key-reused": "The key belongs to a request with another body. Nothing was "
    "done. If this is another payment, make another key; if not, send what you sent the first "
    "time.",
    "idempotency-in-progress": "The first request with this key still runs. Wait as long as "
    "`Retry-After` says and send it again: you will get its answer.",
    "invalid-deadline": "Send a whole number of milliseconds from 1 to 999999999, or none.",
    "deadline-exceeded": f"Nothing was done. {_SAME_KEY} and more patience.",
    "invalid-query": "Send only the parameters that the route documents, each once and in range.",
    "invalid-cursor": "Send `next_cursor` exactly as the page before gave it, with the same "
    "filters.",
    "malformed-json": "Send one JSON document (RFC 8259): no comments, no trailing commas, no "
    "NaN, no byte order mark.",
    "invalid-encoding": "Encode the body in UTF-8.",
    "duplicate-member": "Send each member once: which of the two was meant cannot be known.",
    "too-deep": "Nest 32 levels at most.",
    "schema-violation": "Each entry of `errors` points at a member (RFC 6901) and says what "
    "it must be.",
    "unknown-member": "Remove the member, or correct its name. Unknown ones are refused "
    "because a misspelt one would otherwise be lost in silence.",
    "read-only-member": "Remove the member: the platform sets it.",
    "invalid-character": "Remove control characters and unpaired surrogates from the text.",
    "too-long": "Shorten the text to the bound that `errors` names.",
    "invalid-amount": "Send an integer of minor units: 1500.00 UZS is 150000. No fractions, "
    "no exponent, no quotes.",
    "amount-out-of-range": "Send a smaller amount.",
    "invalid-currency": "Send the three letters of ISO 4217, in upper case: UZS.",
    "invalid-phone": "Send the number in international form: + and the country's code first.",
    "invalid-pan": "Ask the customer to check the card's number: its check digit does not match.",
    "invalid-expiry": "Send YY-MM of the month printed on the card; it must not be over.",
    "invalid-cvv": "Leave the security code out.",
    "unsupported-scheme": "Only cards of the schemes that this bank routes can be used.",
    "currency-not-supported": "Use another currency, or a card of another scheme.",
    "unsupported-operation": "This operation cannot be carried between these two ends.",
    "card-not-active": "Verify the card first (`POST /v1/cards/{id}/verify`), or add it again.",
    "card-already-added": "Use the card that is listed already.",
    "card-limit-reached": "Remove a card that is no longer used.",
    "card-refused": "Ask the customer to speak to the bank that issued the card.",
    "quote-invalid": "Ask for a quote of exactly this payment, as this customer.",
    "quote-expired": "Ask for a new quote and show the customer its price before paying.",
    "commission-plan-missing": "Nothing you can change: the bank has no price for this "
    "operation. Tell it.",
    "commission-exceeds-amount": "Send a larger amount: the receiver would get nothing of "
    "this one.",
    "limit-exceeded": "`errors` names each limit that would be passed. Offer a smaller "
    "amount, or the time at which the limit resets (`GET /v1/limits`); what would have passed is "
    "told by `GET /v1/payments/{decision_id}/trace`.",
    "exchange-rate-missing": "Try again later: a limit counts in another currency, and the central "
    "bank's rate of it has not been stored. Operators: `oqim rates import`.",
    "sca-binding-mismatch": "Ask the customer for the code that was sent for this payment.",
    "rules-invalid": "`errors` names everything that is wrong, each with a pointer into the body.",
    "insufficient-user-authentication": "Give a new code: POST /admin/v1/auth/step-up.",
    "four-eyes-required": "Ask another operator to approve the proposal.",
    "precondition-required": "Read it first, and send its `ETag` as `If-Match`: so that no change "
    "of another is overwritten unseen.",
    "precondition-failed": "Read it again, decide again, and send its new `ETag`.",
    "proposal-stale": "Read what it is about and propose again: that has changed since, or the "
    "proposal has waited for too long.",
    "simulation-running": "Wait until the simulation that is running has ended, or cancel it.",
    "invalid-state": "Read the payment: it has moved on, and its state does not permit this "
    "any more.",
    "capture-exceeds-authorized": "Capture at most `amount_capturable`.",
    "refund-exceeds-captured": "Refund at most `amount_received` less `amount_refunded`.",
    "refund-not-supported": "Refund the customer in another way: the processor cannot do this one.",
    "url-not-allowed": "Send an https URL of a public host, without user information, on port 443 "
    "or 8443. An international name goes in its ASCII form.",
    "webhook-limit-reached": "Remove an endpoint that is no longer used, or let one receive more "
    "types of events.",
    "webhook-disabled": "Switch the endpoint on first: `POST /v1/webhook-endpoints/{id}` with "
    "`is_enabled` true.",
    "callback-invalid": "Send the callback as the connector's protocol says.",
    "callback-signature-invalid": "Sign the raw bytes of the body with the current secret "
    "(Standard Webhooks).",
    "callback-timestamp-invalid": "Set the sender's clock: the timestamp is more than five "
    "minutes off.",
    "callback-conflict": "Give every callback an id of its own; one with this id had another body.",
    "revocation-feed-stale": f"Nothing was done. {_SAME_KEY} as `Retry-After` says.",
    "processor-unavailable": f"Nothing was sent to the processor. {_SAME_KEY} as `Retry-After` "
    "says, or offer another card.",
    "overloaded": f"Nothing was done. {_SAME_KEY} as `Retry-After` says, backing off as you "
    "repeat.",
    "unavailable": f"{_SAME_KEY} as `Retry-After` says.",
    "internal-error": f"{_SAME_KEY}, once. If it fails again, tell us the `request_id`.",
}
