DROP TABLE webhook_deliveries;
DROP TABLE webhook_endpoints;
DROP TABLE event_positions;
DROP INDEX outbox_payment;
ALTER TABLE outbox DROP CONSTRAINT outbox_pkey, ADD PRIMARY KEY (id);
ALTER TABLE outbox DROP COLUMN xid;
