DROP TABLE step_ups;
ALTER TABLE refusals DROP COLUMN request_id;
ALTER TABLE actions DROP COLUMN commission_returned;
ALTER TABLE payments
    DROP COLUMN commission_split,
    DROP COLUMN commission_returned,
    DROP COLUMN commission_returning,
    ADD COLUMN reservation bytea NOT NULL DEFAULT '';
ALTER TABLE payments ALTER COLUMN record SET DEFAULT '';
