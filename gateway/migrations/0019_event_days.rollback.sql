DROP FUNCTION make_event_days;
ALTER TABLE outbox RENAME TO outbox_days;
ALTER INDEX outbox_payment RENAME TO outbox_days_payment;
ALTER INDEX outbox_pkey RENAME TO outbox_days_pkey;
CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY,
    payment_id text NOT NULL,
    sequence   integer NOT NULL,
    type       text NOT NULL,
    data       json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    place      text COLLATE "C" GENERATED ALWAYS AS (substr(payment_id, 15, 2)) STORED
);
INSERT INTO outbox (id, payment_id, sequence, type, data, created_at, xid)
OVERRIDING SYSTEM VALUE
SELECT id, payment_id, sequence, type, data, created_at, xid FROM outbox_days ORDER BY xid, id;
DO $$
BEGIN
    PERFORM setval(pg_get_serial_sequence('outbox', 'id'),
        (SELECT coalesce(max(id), 0) + 1 FROM outbox), false);
END
$$;
DROP TABLE outbox_days;
ALTER TABLE outbox ADD PRIMARY KEY (xid, id);
CREATE INDEX outbox_payment ON outbox (payment_id);
