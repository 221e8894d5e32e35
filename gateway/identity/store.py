"""SQL of clients, sessions, refresh tokens and signing keys."""

from datetime import UTC, datetime

GET_CLIENT = """
SELECT id, channel, subject, secret_hash, jwks, scopes, dpop FROM clients WHERE id = $1
"""
LIST_CLIENTS = """
SELECT id, channel, subject, secret_hash, jwks, scopes, dpop FROM clients ORDER BY id
"""
PUT_CLIENT = """
INSERT INTO clients (id, channel, subject, secret_hash, jwks, scopes, dpop)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO UPDATE SET channel = excluded.channel, subject = excluded.subject,
    secret_hash = excluded.secret_hash, jwks = excluded.jwks, scopes = excluded.scopes,
    dpop = excluded.dpop
"""
ADD_CLIENT = """
INSERT INTO clients (id, channel, subject, secret_hash, jwks, scopes, dpop)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO NOTHING RETURNING id
"""
ADD_ASSERTION = """
INSERT INTO client_assertions (client_id, jti_hash, expires_at) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING RETURNING true
"""
PRUNE_ASSERTIONS = "DELETE FROM client_assertions WHERE expires_at < $1"
ADD_SESSION = """
INSERT INTO sessions
    (id, user_id, client_id, device_id, device_name, created_at, address, level, jkt, scope)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
# Logins of one customer are counted one after another.
LOCK_USER = "SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE"
HAS_DEVICE = "SELECT EXISTS (SELECT FROM sessions WHERE user_id = $1 AND device_id = $2)"
SESSIONS_OF_DEVICE = """
SELECT id FROM sessions WHERE user_id = $1 AND device_id = $2 AND ended_at IS NULL
"""
COUNT_SESSIONS = "SELECT count(*) FROM sessions WHERE user_id = $1 AND ended_at IS NULL"
# Those beyond the newest, the one just added among them.
OLDEST_SESSIONS = """
SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL ORDER BY id DESC OFFSET $2
"""
ADD_REFRESH = """
INSERT INTO refresh_tokens (token_hash, session_id, device_id, expires_at, created_at)
VALUES ($1, $2, $3, $4, $5)
"""
# Two uses of one token meet here: the second waits and then sees what the first did.
LOCK_REFRESH = """
SELECT r.device_id, r.successor, r.used_at, r.expires_at,
       s.id AS session_id, s.user_id, s.client_id, s.created_at, s.ended_at, s.jkt, c.dpop
FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id JOIN clients c ON c.id = s.client_id
WHERE r.token_hash = $1 FOR UPDATE OF s, r
"""
GET_REFRESH = """
SELECT r.used_at, r.expires_at, s.id AS session_id, s.user_id, s.client_id, s.ended_at, s.scope
FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id WHERE r.token_hash = $1
"""
BIND_SESSION = "UPDATE sessions SET jkt = $2 WHERE id = $1"
USE_REFRESH = "UPDATE refresh_tokens SET used_at = $2, successor = $3 WHERE token_hash = $1"
# One that is in somebody's hands just now is left: waiting for it, while it waits for us, would
# end one of the two.
PRUNE_REFRESH = """
DELETE FROM refresh_tokens WHERE token_hash IN (
    SELECT token_hash FROM refresh_tokens WHERE session_id = $1 AND expires_at < $2
    FOR UPDATE SKIP LOCKED)
"""
GET_BEARER = """
SELECT u.tier, c.channel FROM users u, clients c WHERE u.id = $1 AND c.id = $2
"""
LIST_SESSIONS = """
SELECT s.id, s.client_id, s.device_id, s.device_name, s.created_at, s.address, s.level,
       (SELECT max(r.created_at) FROM refresh_tokens r WHERE r.session_id = s.id) AS last_used_at
FROM sessions s
WHERE s.user_id = $1 AND s.ended_at IS NULL AND ($2::text IS NULL OR s.id < $2)
  AND EXISTS (SELECT FROM refresh_tokens r
              WHERE r.session_id = s.id AND r.used_at IS NULL AND r.expires_at > $3)
ORDER BY s.id DESC LIMIT $4
"""
GET_OWN_SESSION = "SELECT id FROM sessions WHERE id = $1 AND user_id = $2"
# Locked in order of id, so that two who end each other's sessions never wait for one another.
LOCK_OTHER_SESSIONS = """
SELECT id FROM sessions WHERE user_id = $1 AND id <> $2 AND ended_at IS NULL
ORDER BY id FOR UPDATE
"""
LOCK_SESSIONS = """
SELECT id FROM sessions WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE
"""
LOCK_SESSIONS_OF_CLIENT = """
SELECT id FROM sessions WHERE client_id = $1 AND ended_at IS NULL ORDER BY id FOR UPDATE
"""
END_SESSIONS = """
UPDATE sessions s SET ended_at = $2, end_reason = $3, ended_by = $4,
    last_used_at = (SELECT max(r.created_at) FROM refresh_tokens r WHERE r.session_id = s.id)
WHERE s.id = ANY($1::text[]) AND s.ended_at IS NULL
RETURNING id, user_id
"""
# Whoever asks while it is being ended waits, and is told that it was.
HOLD_SESSION = "SELECT ended_at IS NULL FROM sessions WHERE id = $1 FOR SHARE"
# $2: what began before has come to its end.
COUNT_ALIVE = """
SELECT count(*) FROM sessions
WHERE id = ANY($1::text[]) AND ended_at IS NULL AND created_at > $2
"""
# The newest token of a session is the only one not used: when it has expired, so has the session.
# $2 seconds that a session may live.
LIST_EXPIRED = """
SELECT s.id, r.expires_at >= s.created_at + $2 * interval '1 second' AS is_over
FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
WHERE r.expires_at <= $1 AND r.used_at IS NULL AND s.ended_at IS NULL
ORDER BY s.id LIMIT $3 FOR UPDATE OF s SKIP LOCKED
"""
DELETE_EXPIRED = """
DELETE FROM refresh_tokens WHERE token_hash IN (
    SELECT r.token_hash FROM refresh_tokens r JOIN sessions s ON s.id = r.session_id
    WHERE r.expires_at <= $1 AND s.ended_at IS NOT NULL
    LIMIT $2 FOR UPDATE OF r SKIP LOCKED)
"""
_SHOWN = """
SELECT s.id, s.user_id, s.client_id, s.device_id, s.device_name, s.created_at, s.address, s.level,
       s.ended_at, s.end_reason, s.ended_by,
       coalesce(s.last_used_at, (SELECT max(r.created_at) FROM refresh_tokens r
                                 WHERE r.session_id = s.id), s.created_at) AS last_used_at
FROM sessions s
"""
# $3: alive, ended, or null for either.
FIND_SESSIONS = f"""
{_SHOWN}
WHERE ($1::text IS NULL OR s.user_id = $1) AND ($2::text IS NULL OR s.client_id = $2)
  AND ($3::boolean IS NULL OR (s.ended_at IS NULL) = $3) AND s.id < $4
ORDER BY s.id DESC LIMIT $5
"""
GET_SESSION = f"{_SHOWN} WHERE s.id = $1"


def moment(at_ms: int) -> datetime:
    """Return Unix milliseconds as the database's time."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC)


def millis(at: datetime) -> int:
    """Return the database's time as Unix milliseconds."""
    return round(at.timestamp() * 1_000)
