ALTER TABLE payments DROP COLUMN place;
ALTER TABLE attempts DROP COLUMN place;
ALTER TABLE actions DROP COLUMN place;
ALTER TABLE entries DROP COLUMN place;
ALTER TABLE outbox DROP COLUMN place;
ALTER TABLE idempotency_keys DROP COLUMN place;
