"""SQL of operators."""

# One try, counted before anything is looked at. $2 tries before it is locked, $3 for how long.
TRY = """
UPDATE operators SET
    tries = CASE WHEN locked_until <= now() THEN 1 ELSE tries + 1 END,
    locked_until = CASE
        WHEN CASE WHEN locked_until <= now() THEN 1 ELSE tries + 1 END >= $2
        THEN now() + $3 * interval '1 second' END
WHERE login = $1 AND disabled_at IS NULL AND (locked_until IS NULL OR locked_until <= now())
RETURNING id, password_hash, totp_sealed, roles, locked_until IS NOT NULL AS is_last
"""
IS_LOCKED = "SELECT locked_until > now() FROM operators WHERE login = $1"
# A code is taken once, even by two requests at one moment.
TAKE_STEP = """
UPDATE operators SET totp_step = $2, tries = 0, locked_until = NULL
WHERE id = $1 AND totp_step < $2 AND disabled_at IS NULL
RETURNING id
"""
GET = """
SELECT id, name, login, roles, disabled_at IS NOT NULL AS is_disabled,
    coalesce(locked_until > now(), false) AS is_locked, created_at
FROM operators WHERE id = $1
"""
LIST = """
SELECT id, name, login, roles, disabled_at IS NOT NULL AS is_disabled,
    coalesce(locked_until > now(), false) AS is_locked, created_at
FROM operators WHERE id > $1 ORDER BY id LIMIT $2
"""
ADD = """
INSERT INTO operators (id, name, login, password_hash, totp_sealed, roles)
VALUES ($1, $2, $3, $4, $5, $6)
"""
CHANGE = """
UPDATE operators SET roles = $2,
    disabled_at = CASE WHEN $3 THEN coalesce(disabled_at, now()) END
WHERE id = $1
"""

ADD_SESSION = """
INSERT INTO operator_sessions (id, operator_id, created_at, authenticated_at, renewed_at)
VALUES ($1, $2, $3, $3, $3)
"""
# $3 absolute seconds, $4 idle seconds.
_ALIVE = """
s.ended_at IS NULL AND s.created_at > $2::timestamptz - $3 * interval '1 second'
    AND s.renewed_at > $2::timestamptz - $4 * interval '1 second'
"""
RENEW = f"""
UPDATE operator_sessions s SET renewed_at = $2 FROM operators o
WHERE s.id = $1 AND o.id = s.operator_id AND o.disabled_at IS NULL AND {_ALIVE}
RETURNING s.operator_id, s.created_at, o.roles
"""
AUTHENTICATED = f"""
UPDATE operator_sessions s SET renewed_at = $2, authenticated_at = $2 FROM operators o
WHERE s.id = $1 AND o.id = s.operator_id AND o.disabled_at IS NULL AND {_ALIVE}
RETURNING s.operator_id, s.created_at, o.roles
"""
LOGIN_OF = """
SELECT o.id, o.login, o.totp_sealed
FROM operator_sessions s JOIN operators o ON o.id = s.operator_id
WHERE s.id = $1 AND s.ended_at IS NULL AND o.disabled_at IS NULL
"""
IS_FRESH = """
SELECT authenticated_at > now() - $2 * interval '1 second' FROM operator_sessions
WHERE id = $1 AND ended_at IS NULL
"""
END = (
    "UPDATE operator_sessions SET ended_at = now() WHERE id = $1 AND ended_at IS NULL RETURNING id"
)
END_ALL = """
UPDATE operator_sessions SET ended_at = now() WHERE operator_id = $1 AND ended_at IS NULL
RETURNING id
"""

# What a change of roles is proposed against. No row: there is no such operator.
VERSION = """
SELECT array_to_string(roles, ',') || '|' || (disabled_at IS NOT NULL)::text
FROM operators WHERE id = $1 FOR UPDATE
"""
