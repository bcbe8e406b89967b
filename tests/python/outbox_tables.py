"""The outbox's tables: the SQL that makes them, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

SOURCES = Path(__file__).parents[2] / "src" / "outbox"


def postgres_tables(schema: str) -> str:
    quoted = '"{}"'.format(schema.replace('"', '""'))
    return (SOURCES / "postgres" / "0001.sql").read_text().replace("{schema}", quoted)


def sqlite_tables() -> str:
    return (SOURCES / "sqlite" / "0001.sql").read_text()


def committed(url: str) -> list[dict[str, Any]]:
    """The rows of the PostgreSQL outbox that another connection sees, in order."""
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as conn:
        return conn.execute("select * from onecommit.outbox order by id").fetchall()
