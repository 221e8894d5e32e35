DROP TABLE revocation_acks;
DROP TABLE revocation_followers;
DROP INDEX sessions_client;
ALTER TABLE sessions DROP COLUMN address, DROP COLUMN level;
