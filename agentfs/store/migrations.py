"""The store's schema as numbered steps. A step that was released is never edited: add another."""

from __future__ import annotations

import sqlite3

__all__ = ["LATEST", "migrate"]

MIGRATIONS: tuple[str, ...] = (
    # 1: the living system
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE agents (name TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE processes (pid INTEGER PRIMARY KEY, record TEXT NOT NULL);
    CREATE TABLE messages (
        seq      INTEGER PRIMARY KEY,                -- sorts by arrival, never used twice
        mailbox  TEXT NOT NULL,                      -- the agent's name
        state    TEXT NOT NULL CHECK (state IN ('new', 'cur', 'dead')),
        filename TEXT NOT NULL,
        record   TEXT NOT NULL,                      -- sender, priority, expiry, attempt … as JSON
        content  BLOB NOT NULL                       -- the text, if it is short
    );
    CREATE TABLE long_contents (                     -- the others: a change of state must not
        seq     INTEGER PRIMARY KEY,                 -- write a megabyte again
        content BLOB NOT NULL
    );
    """,
    # 2: messages complete
    """
    ALTER TABLE messages RENAME TO old_messages;
    CREATE TABLE messages (
        seq      INTEGER PRIMARY KEY,                -- sorts by arrival, never used twice
        mailbox  TEXT NOT NULL,                      -- an agent's name, queues/NAME, or *
        state    TEXT NOT NULL                       -- the last two: kept for the sender's `sent`
            CHECK (state IN ('new', 'cur', 'dead', 'done', 'expired')),
        filename TEXT NOT NULL,
        record   TEXT NOT NULL,
        content  BLOB NOT NULL
    );
    INSERT INTO messages SELECT * FROM old_messages;
    DROP TABLE old_messages;
    CREATE TABLE records (                           -- queues, topics, questions, reminders …
        kind   TEXT NOT NULL,
        key    TEXT NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    CREATE TABLE publications (                      -- what was published to topics and is kept
        topic   TEXT NOT NULL,
        seq     INTEGER NOT NULL,
        record  TEXT NOT NULL,
        content BLOB NOT NULL,
        PRIMARY KEY (topic, seq)
    ) WITHOUT ROWID;
    """,
    # 3: resources and permissions
    """
    CREATE TABLE audit (                             -- one record for each change and each refusal
        seq    INTEGER PRIMARY KEY,                  -- from 1, without gaps
        record TEXT NOT NULL,                        -- canonical JSON of all its fields
        hash   BLOB NOT NULL                         -- over the record and the hash before
    );
    CREATE TABLE checkpoints (                       -- of the audit: signed outside the store
        seq    INTEGER PRIMARY KEY,
        record TEXT NOT NULL
    );
    CREATE TABLE uses (                              -- one record for each use of a model or tool
        seq      INTEGER PRIMARY KEY,
        time     REAL NOT NULL,
        hour     TEXT NOT NULL,                      -- 2026-11-21T09
        pid      INTEGER NOT NULL,
        agent    TEXT NOT NULL,
        user     TEXT NOT NULL,
        node     TEXT NOT NULL,
        tier     TEXT NOT NULL,
        kind     TEXT NOT NULL CHECK (kind IN ('llm', 'tool')),
        name     TEXT NOT NULL,                      -- of the model or the tool
        input    INTEGER NOT NULL,                   -- tokens
        output   INTEGER NOT NULL,
        cost     INTEGER NOT NULL,                   -- millionths of a dollar
        unpriced INTEGER NOT NULL                    -- 1: a model that had no price
    );
    CREATE INDEX uses_by_time ON uses (time);
    CREATE TABLE usage (                             -- their sums, by view, key and span of time
        view       TEXT NOT NULL,                    -- agent, user, node, tier, total
        key        TEXT NOT NULL,                    -- '': of agents that are gone; of total
        span       TEXT NOT NULL,                    -- total, swept, 2026-11-21, 2026-11-21T09
        input      INTEGER NOT NULL,
        output     INTEGER NOT NULL,
        calls      INTEGER NOT NULL,
        tool_calls INTEGER NOT NULL,
        cost       INTEGER NOT NULL,
        unpriced   INTEGER NOT NULL,
        PRIMARY KEY (view, key, span)
    ) WITHOUT ROWID;
    CREATE INDEX usage_keys ON usage (view, key) WHERE span = 'total';
    """,
    # 4: the record of a process leaves out fields that have their defaults. This release reads both
    # kinds; an earlier one reads only the older kind, and so refuses the store.
    "",
    # 5: records of agents have their prompt and last result, those of processes groups, metadata
    # and more limits, those of messages the hops behind them and since when they are claimed. The
    # first start gives agents a number of their own and that of their creator. This release reads
    # both kinds; an earlier one does not. A use has the tokens of the provider's cache apart, and
    # whether it is an estimate.
    """
    CREATE TABLE turn_days (                         -- the turns that ended on a day, by agent
        agent   TEXT NOT NULL,
        day     TEXT NOT NULL,                       -- 2026-11-21
        turns   INTEGER NOT NULL,
        failed  INTEGER NOT NULL,
        seconds REAL NOT NULL,
        PRIMARY KEY (agent, day)
    ) WITHOUT ROWID;
    CREATE INDEX turn_days_by_day ON turn_days (day);
    CREATE TABLE tool_days (                         -- calls of tools, by agent and day
        agent TEXT NOT NULL,
        day   TEXT NOT NULL,
        tool  TEXT NOT NULL,
        calls INTEGER NOT NULL,
        PRIMARY KEY (agent, day, tool)
    ) WITHOUT ROWID;
    CREATE INDEX tool_days_by_day ON tool_days (day);
    ALTER TABLE uses ADD COLUMN cache_read INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE uses ADD COLUMN cache_write INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE uses ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;  -- 1: nobody said what it was
    ALTER TABLE uses ADD COLUMN provider TEXT NOT NULL DEFAULT '';     -- '': the process made it
    ALTER TABLE usage ADD COLUMN cache_read INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN cache_write INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE manifests (                         -- documents of /etc/pipelines and its like
        kind    TEXT NOT NULL,                       -- pipelines, systems, macros …
        name    TEXT NOT NULL,
        version INTEGER NOT NULL,
        record  TEXT NOT NULL,                       -- whose it is, when it came
        text    TEXT NOT NULL,
        PRIMARY KEY (kind, name, version)
    ) WITHOUT ROWID;
    CREATE TABLE plans (                             -- what a document was compiled to
        hash   TEXT PRIMARY KEY,
        record TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        id       INTEGER PRIMARY KEY,                -- its pid
        state    TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        ref      TEXT NOT NULL,                      -- TYPE/ID, or empty
        key      TEXT NOT NULL,                      -- of a request that may be repeated
        ended    REAL,                               -- wall clock, seconds; NULL: not yet
        forget   REAL,                               -- when, if its pipeline says so
        parent   INTEGER NOT NULL,                   -- the run that it is a sub-run of; 0: of none
        plan_hash TEXT NOT NULL,
        record   TEXT NOT NULL,
        input    BLOB,                               -- JSON, as is the output
        output   BLOB
    );
    CREATE UNIQUE INDEX runs_by_key ON runs (pipeline, key) WHERE key != '';
    CREATE INDEX runs_by_state ON runs (state);
    CREATE INDEX runs_by_pipeline ON runs (pipeline);
    CREATE INDEX runs_by_ref ON runs (ref) WHERE ref != '';
    CREATE INDEX runs_by_end ON runs (ended) WHERE ended IS NOT NULL;
    CREATE INDEX runs_to_forget ON runs (forget) WHERE forget IS NOT NULL;
    CREATE INDEX runs_by_parent ON runs (parent) WHERE parent != 0;
    CREATE INDEX runs_by_plan ON runs (plan_hash);
    CREATE TABLE run_nodes (                         -- the journal: the newest attempt of each node
        run     INTEGER NOT NULL,
        path    TEXT NOT NULL,                       -- NODE, or LOOP/ITERATION/NODE
        state   TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        wait    TEXT NOT NULL,                       -- the key of the signal that it waits for
        record  TEXT NOT NULL,
        input   BLOB,                                -- JSON, as is the output
        output  BLOB,
        PRIMARY KEY (run, path)
    ) WITHOUT ROWID;
    CREATE INDEX open_nodes ON run_nodes (run)
        WHERE state IN ('running', 'waiting', 'backoff');
    CREATE INDEX waiting_nodes ON run_nodes (wait) WHERE wait != '';
    CREATE TABLE run_events (
        run  INTEGER NOT NULL,
        seq  INTEGER NOT NULL,                       -- from 1, without gaps
        line TEXT NOT NULL,
        PRIMARY KEY (run, seq)
    ) WITHOUT ROWID;
    CREATE TABLE entity_history (
        type   TEXT NOT NULL,
        id     TEXT NOT NULL,
        seq    INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (type, id, seq)
    ) WITHOUT ROWID;
    CREATE TABLE ended_tasks (                       -- the open ones are records
        id        INTEGER PRIMARY KEY,
        state     TEXT NOT NULL,
        submitter TEXT NOT NULL,
        key       TEXT NOT NULL,                     -- of a request that may be repeated
        in_group  TEXT NOT NULL,
        ended     REAL NOT NULL,                     -- wall clock, seconds
        record    TEXT NOT NULL
    );
    CREATE INDEX ended_tasks_by_state ON ended_tasks (state);
    CREATE INDEX ended_tasks_by_end ON ended_tasks (ended);
    CREATE UNIQUE INDEX ended_tasks_by_key ON ended_tasks (submitter, key) WHERE key != '';
    CREATE INDEX ended_tasks_by_group ON ended_tasks (in_group) WHERE in_group != '';
    CREATE TABLE task_values (
        task   INTEGER PRIMARY KEY,
        input  TEXT,                                 -- JSON, as is the result
        result TEXT
    );
    """,
)

LATEST = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> int:
    """Bring the schema to `LATEST`, each step in one transaction; return the version it had.

    Raises `sqlite3.DatabaseError` if the file is from a newer release, and changes nothing.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > LATEST:
        raise sqlite3.DatabaseError(
            f"the store has schema {found}, this release knows up to {LATEST}: use a newer release"
        )
    for number, script in enumerate(MIGRATIONS[found:], start=found + 1):
        try:
            connection.executescript(f"BEGIN;{script};PRAGMA user_version = {number};COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return int(found)
