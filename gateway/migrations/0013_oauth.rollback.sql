DROP TABLE client_assertions;
-- What is left does not ask for the key: whoever has the refresh token alone must not go on.
UPDATE sessions SET ended_at = now() WHERE jkt IS NOT NULL AND ended_at IS NULL;
ALTER TABLE sessions DROP COLUMN scope, DROP COLUMN jkt;
ALTER TABLE clients
    DROP CONSTRAINT clients_one_credential,
    DROP COLUMN created_at,
    DROP COLUMN dpop,
    DROP COLUMN jwks;
