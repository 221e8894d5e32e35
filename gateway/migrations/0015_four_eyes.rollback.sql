DROP INDEX step_ups_owner, step_ups_session;
ALTER TABLE step_ups
    DROP COLUMN session_id, DROP COLUMN nonce, DROP COLUMN binding_hash, DROP COLUMN burnt_at,
    DROP COLUMN decision_id, DROP COLUMN record;

DROP INDEX refresh_tokens_expiry, sessions_of_client, sessions_of_user;
ALTER TABLE sessions
    DROP COLUMN end_reason, DROP COLUMN ended_by, DROP COLUMN last_used_at;
