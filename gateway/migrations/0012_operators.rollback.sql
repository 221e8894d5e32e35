DROP TABLE operator_proposals;
DROP TABLE operator_sessions;
ALTER TABLE operators ADD COLUMN scopes text[] NOT NULL DEFAULT '{admin:read,admin:write}';
ALTER TABLE operators
    DROP COLUMN disabled_at, DROP COLUMN locked_until, DROP COLUMN tries, DROP COLUMN roles,
    DROP COLUMN totp_step, DROP COLUMN totp_sealed, DROP COLUMN password_hash, DROP COLUMN login;
