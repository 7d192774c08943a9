"""What the database is asked, word for word.

A step locks the rows of its circuits in the order of their names, so that no two steps wait for
each other. Contention is for one circuit only, and for the time of a step. There is nothing to
win by a row for each permit: it would be a second place that knows what a permit is.

**The feed.** Whoever has something to tell raises the store's ``revision`` last, and holds that
row until the commit. So revisions become visible in their order, and a reader that asks for
those after the last that it has seen misses none. A sequence, a time or a transaction's number
is given before the commit: a slow transaction would become visible behind the reader's back.
"""

from __future__ import annotations

from typing import Final

#: Microseconds of the server's clock at this very moment (``now()`` would be those of the
#: transaction's beginning), or what tests say.
NOW: Final = "COALESCE(%s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"

# -- reading ---------------------------------------------------------------------------------

STORE: Final = f"""
SELECT incarnation, floor, revision, {NOW} FROM circuitbreaker_store WHERE namespace = %s
"""
# In pages, each with all of its last revision, so that the next one goes on after it.
CHANGES: Final = f"""
SELECT
    store.incarnation, store.floor, COALESCE(page.last, store.revision), {NOW},
    page.last IS NOT NULL, circuit.name, circuit.record
FROM circuitbreaker_store AS store
LEFT JOIN LATERAL (
    SELECT revision AS last FROM circuitbreaker_circuit
    WHERE namespace = store.namespace AND revision > %s ORDER BY revision OFFSET %s LIMIT 1
) AS page ON true
LEFT JOIN circuitbreaker_circuit AS circuit
    ON circuit.namespace = store.namespace AND circuit.revision > %s
    AND circuit.revision <= COALESCE(page.last, store.revision) AND circuit.record IS NOT NULL
WHERE store.namespace = %s
"""
CIRCUITS: Final = """
SELECT name, record FROM circuitbreaker_circuit
WHERE namespace = %s AND record IS NOT NULL ORDER BY name
"""
EVENTS: Final = """
SELECT name, record FROM circuitbreaker_event
WHERE namespace = %s AND (%s::text[] IS NULL OR name = ANY(%s::text[]))
ORDER BY number DESC LIMIT %s
"""
DECLARATIONS: Final = """
SELECT name, info FROM circuitbreaker_declaration WHERE namespace = %s ORDER BY name
"""
PROCESSES: Final = """
SELECT info, seen_at FROM circuitbreaker_process WHERE namespace = %s AND seen_at > %s ORDER BY id
"""
TRAFFIC: Final = """
SELECT name, start, calls, failures, slow, ignored, rejected FROM circuitbreaker_traffic
WHERE namespace = %s AND width = %s AND start BETWEEN %s AND %s
    AND (%s::text[] IS NULL OR name = ANY(%s::text[]))
ORDER BY name, start
"""

# -- a step ----------------------------------------------------------------------------------

# The clock is read when the rows are locked: whoever comes later to a circuit has a later time.
LOCK: Final = f"""
WITH locked AS MATERIALIZED (
    SELECT name, record FROM circuitbreaker_circuit
    WHERE namespace = %s AND name = ANY(%s::text[]) ORDER BY name FOR UPDATE
), gathered AS MATERIALIZED (
    SELECT array_agg(name) AS names, array_agg(record) AS records FROM locked
)
SELECT store.incarnation, store.floor, store.revision, {NOW}, gathered.names, gathered.records
FROM gathered CROSS JOIN circuitbreaker_store AS store WHERE store.namespace = %s
"""
# Its numbers begin with the time, so above those of a store that was lost.
ADD_STORE: Final = f"""
INSERT INTO circuitbreaker_store (namespace, incarnation, floor, revision, events)
SELECT %s, %s, now, now, now FROM (SELECT {NOW} AS now) AS clock
ON CONFLICT (namespace) DO NOTHING
"""
# A row without a record is there to be locked; it is a circuit without a row (rule 2).
ADD_CIRCUITS: Final = """
INSERT INTO circuitbreaker_circuit (namespace, name, revision)
SELECT store.namespace, new.name, store.revision
FROM circuitbreaker_store AS store, unnest(%s::text[]) AS new (name)
WHERE store.namespace = %s ORDER BY new.name
ON CONFLICT (namespace, name) DO NOTHING
"""
# What nobody else needs to hear of.
SAVE_SILENTLY: Final = """
UPDATE circuitbreaker_circuit AS circuit SET record = new.record
FROM unnest(%s::text[], %s::text[]) AS new (name, record)
WHERE circuit.namespace = %s AND circuit.name = new.name
"""
SAVE: Final = """
WITH store AS (
    UPDATE circuitbreaker_store SET revision = revision + 1, events = events + %s
    WHERE namespace = %s AND incarnation = %s RETURNING namespace, revision, events
), saved AS (
    UPDATE circuitbreaker_circuit AS circuit SET record = new.record, revision = store.revision
    FROM store, unnest(%s::text[], %s::text[]) AS new (name, record)
    WHERE circuit.namespace = store.namespace AND circuit.name = new.name
), told AS (
    INSERT INTO circuitbreaker_event (namespace, number, name, record)
    SELECT store.namespace, store.events + 1 - new.age, new.name, new.record
    FROM store, unnest(%s::text[], %s::text[]) WITH ORDINALITY AS new (name, record, age)
), forgotten AS (
    DELETE FROM circuitbreaker_event AS event USING store
    WHERE event.namespace = store.namespace AND event.number <= store.events - %s
)
SELECT revision FROM store
"""

# -- data loss -------------------------------------------------------------------------------

RENEW: Final = f"""
UPDATE circuitbreaker_store SET incarnation = %s, floor = GREATEST(floor + 1, {NOW})
WHERE namespace = %s AND incarnation = %s
"""
# Only what is there as it was read: a hold may have been written meanwhile.
DROP_CIRCUITS: Final = """
DELETE FROM circuitbreaker_circuit AS circuit
USING unnest(%s::text[], %s::text[]) AS spoilt (name, record)
WHERE circuit.namespace = %s AND circuit.name = spoilt.name AND circuit.record = spoilt.record
RETURNING circuit.name
"""
RAISE_FLOOR: Final = f"""
UPDATE circuitbreaker_store SET floor = GREATEST(floor + 1, %s, {NOW}) WHERE namespace = %s
"""

# -- where there is too much -----------------------------------------------------------------

SIZES: Final = """
SELECT
    (SELECT count(*) FROM circuitbreaker_circuit WHERE namespace = %s),
    (SELECT count(*) FROM circuitbreaker_declaration WHERE namespace = %s)
"""
TRAFFIC_SIZES: Final = """
SELECT width, count(*) FROM circuitbreaker_traffic WHERE namespace = %s GROUP BY width
"""
DECLARATIONS_BY_AGE: Final = """
SELECT name, info FROM circuitbreaker_declaration WHERE namespace = %s ORDER BY seen_at, name
"""
# What somebody is just writing is passed over, and so is what was written since it was read.
DROP_BLANK_CIRCUITS: Final = """
DELETE FROM circuitbreaker_circuit WHERE (namespace, name) IN (
    SELECT circuit.namespace, circuit.name FROM circuitbreaker_circuit AS circuit
    JOIN unnest(%s::text[], %s::text[]) AS blank (name, record)
        ON circuit.name = blank.name AND circuit.record = blank.record
    WHERE circuit.namespace = %s FOR UPDATE OF circuit SKIP LOCKED
) RETURNING name
"""
DROP_EMPTY_CIRCUITS: Final = """
DELETE FROM circuitbreaker_circuit WHERE (namespace, name) IN (
    SELECT namespace, name FROM circuitbreaker_circuit
    WHERE namespace = %s AND record IS NULL FOR UPDATE SKIP LOCKED
)
"""
DROP_DECLARATIONS: Final = """
DELETE FROM circuitbreaker_declaration WHERE (namespace, name) IN (
    SELECT namespace, name FROM circuitbreaker_declaration
    WHERE namespace = %s AND name = ANY(%s::text[]) FOR UPDATE SKIP LOCKED
)
"""
DROP_TRAFFIC: Final = """
DELETE FROM circuitbreaker_traffic WHERE (namespace, name, width, start) IN (
    SELECT namespace, name, width, start FROM circuitbreaker_traffic
    WHERE namespace = %s AND width = %s AND position(':' IN name) > 0
    ORDER BY start LIMIT %s FOR UPDATE SKIP LOCKED
)
"""

# -- who is there ----------------------------------------------------------------------------

SEE_PROCESS: Final = f"""
INSERT INTO circuitbreaker_process (namespace, id, seen_at, info) VALUES (%s, %s, {NOW}, %s)
ON CONFLICT (namespace, id) DO UPDATE SET seen_at = excluded.seen_at, info = excluded.info
"""
# What somebody else is just writing or deleting is passed over: nobody waits for it.
FORGET_PROCESSES: Final = f"""
DELETE FROM circuitbreaker_process WHERE (namespace, id) IN (
    SELECT namespace, id FROM circuitbreaker_process
    WHERE namespace = %s AND seen_at <= {NOW} - %s FOR UPDATE SKIP LOCKED
)
"""
WITHDRAW: Final = "DELETE FROM circuitbreaker_process WHERE namespace = %s AND id = %s"
# A thousand processes that begin at once write what is new only once.
NOTE_DECLARATIONS: Final = f"""
INSERT INTO circuitbreaker_declaration AS known (namespace, name, seen_at, info)
SELECT %s, new.name, {NOW}, new.info FROM unnest(%s::text[], %s::text[]) AS new (name, info)
ORDER BY new.name
ON CONFLICT (namespace, name) DO UPDATE SET seen_at = excluded.seen_at, info = excluded.info
WHERE known.info <> excluded.info OR known.seen_at <= excluded.seen_at - %s
"""
FORGET_DECLARATIONS: Final = f"""
DELETE FROM circuitbreaker_declaration WHERE (namespace, name) IN (
    SELECT namespace, name FROM circuitbreaker_declaration
    WHERE namespace = %s AND seen_at <= {NOW} - %s FOR UPDATE SKIP LOCKED
)
"""
# As everywhere in the order of the names, so that no two processes wait for each other.
ADD_TRAFFIC: Final = """
INSERT INTO circuitbreaker_traffic AS known
    (namespace, name, width, start, calls, failures, slow, ignored, rejected)
SELECT %s, new.* FROM unnest(
    %s::text[], %s::bigint[], %s::bigint[],
    %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]
) AS new (name, width, start, calls, failures, slow, ignored, rejected)
ORDER BY new.name, new.width, new.start
ON CONFLICT (namespace, name, width, start) DO UPDATE SET
    calls = known.calls + excluded.calls, failures = known.failures + excluded.failures,
    slow = known.slow + excluded.slow, ignored = known.ignored + excluded.ignored,
    rejected = known.rejected + excluded.rejected
"""
FORGET_TRAFFIC: Final = """
DELETE FROM circuitbreaker_traffic WHERE (namespace, name, width, start) IN (
    SELECT namespace, name, width, start FROM circuitbreaker_traffic
    WHERE namespace = %s AND width = %s AND start < %s FOR UPDATE SKIP LOCKED
)
"""
