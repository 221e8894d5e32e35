-- The column by which tables of payments would be spread: where a payment's customer lies, two
-- characters of the payment's own id (gateway/kernel/ids.py), and so the same in all of them. Each
-- table is written anew, and is locked meanwhile.

ALTER TABLE payments
    ADD COLUMN place text COLLATE "C" GENERATED ALWAYS AS (substr(id, 15, 2)) STORED;
ALTER TABLE attempts
    ADD COLUMN place text COLLATE "C" GENERATED ALWAYS AS (substr(id, 15, 2)) STORED;
ALTER TABLE actions
    ADD COLUMN place text COLLATE "C" GENERATED ALWAYS AS (substr(payment_id, 15, 2)) STORED;
ALTER TABLE entries
    ADD COLUMN place text COLLATE "C" GENERATED ALWAYS AS (substr(entry_id, 15, 2)) STORED;
ALTER TABLE outbox
    ADD COLUMN place text COLLATE "C" GENERATED ALWAYS AS (substr(payment_id, 15, 2)) STORED;
ALTER TABLE idempotency_keys
    ADD COLUMN place text COLLATE "C" GENERATED ALWAYS AS (substr(object_id, 15, 2)) STORED;
