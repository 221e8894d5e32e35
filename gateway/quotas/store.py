"""SQL of clients' limits."""

# Changes are numbered in the order in which they are committed: a reader misses none.
LOCK = "LOCK TABLE client_limits IN SHARE ROW EXCLUSIVE MODE"
GET_CLIENT = "SELECT channel FROM clients WHERE id = $1"
GET = """
SELECT client_id, rate_per_s, burst, concurrency_max,
       array(SELECT text(one) FROM unnest(networks) AS one) AS networks, seq
FROM client_limits WHERE client_id = $1
"""
PUT = """
INSERT INTO client_limits
    (client_id, rate_per_s, burst, concurrency_max, networks, seq, changed_at, changed_by)
VALUES ($1, $2, $3, $4, $5::text[]::cidr[],
        (SELECT coalesce(max(seq), 0) + 1 FROM client_limits), $6, $7)
ON CONFLICT (client_id) DO UPDATE SET rate_per_s = excluded.rate_per_s, burst = excluded.burst,
    concurrency_max = excluded.concurrency_max, networks = excluded.networks, seq = excluded.seq,
    changed_at = excluded.changed_at, changed_by = excluded.changed_by
RETURNING seq
"""
READ = """
SELECT l.client_id, c.channel, l.rate_per_s, l.burst, l.concurrency_max,
       array(SELECT text(one) FROM unnest(l.networks) AS one) AS networks, l.seq
FROM client_limits l JOIN clients c ON c.id = l.client_id WHERE l.seq > $1 ORDER BY l.seq
"""
