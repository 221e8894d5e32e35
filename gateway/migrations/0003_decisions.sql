-- The stored decision says what a payment took from limits; what a commission is divided into and
-- what of it goes back with refunds; payments that wait for a stronger authentication.

ALTER TABLE payments DROP COLUMN reservation;
ALTER TABLE payments ALTER COLUMN record DROP DEFAULT;
ALTER TABLE payments
    -- [[party, minor units], ...] of the total.
    ADD COLUMN commission_split json NOT NULL DEFAULT '[]',
    -- Given back with refunds that succeeded; and with those that are under way as well.
    ADD COLUMN commission_returned bigint NOT NULL DEFAULT 0,
    ADD COLUMN commission_returning bigint NOT NULL DEFAULT 0;

ALTER TABLE actions ADD COLUMN commission_returned bigint NOT NULL DEFAULT 0;

-- A refusal is found by the request that it answered as well.
ALTER TABLE refusals ADD COLUMN request_id text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX refusals_request ON refusals (request_id) WHERE request_id <> '';

-- Payments that pass once a stronger authentication is given.
CREATE TABLE step_ups (
    payment_id      text COLLATE "C" PRIMARY KEY REFERENCES payments (id),
    owner           text NOT NULL,
    -- The request as it was decided, sealed: it may name a card by its number.
    request_sealed  bytea NOT NULL,
    -- A keyed hash of the code that was sent.
    code_hash       bytea NOT NULL,
    code_tries      smallint NOT NULL DEFAULT 0,
    expires_at      timestamptz NOT NULL,
    -- The key by which it was confirmed, and the answer that was given.
    confirmation_id text COLLATE "C",
    response_status smallint,
    response_body   text
);
CREATE UNIQUE INDEX step_ups_confirmation ON step_ups (confirmation_id)
    WHERE confirmation_id IS NOT NULL;
CREATE INDEX step_ups_open ON step_ups (expires_at) WHERE confirmation_id IS NULL;
