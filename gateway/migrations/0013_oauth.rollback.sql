DROP TABLE client_assertions;
ALTER TABLE sessions DROP COLUMN scope, DROP COLUMN jkt;
ALTER TABLE clients
    DROP CONSTRAINT clients_one_credential,
    DROP COLUMN created_at,
    DROP COLUMN dpop,
    DROP COLUMN jwks;
