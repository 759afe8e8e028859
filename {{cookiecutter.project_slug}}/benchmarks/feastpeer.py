"""What a look-up costs Feast on its SQLite store: `python -m benchmarks.feastpeer FILE LOOK_UPS`.

The file has the tables (name, keys, values, rows) and the entities to look up, as JSON. Prints CPU
microseconds of one look-up in all tables.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, String

MOMENT = "event_timestamp"


def main() -> None:
    """Fill a store, look up, print."""
    content = json.loads(Path(sys.argv[1]).read_bytes())
    look_ups = int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        tables = content["tables"]
        store = filled(Path(folder), tables)
        wanted = [f"{table['name']}:{name}" for table in tables for name in table["values"]]
        entities = content["entities"]
        found = store.get_online_features(features=wanted, entity_rows=entities).to_dict()
        if not any(value is not None for name in wanted for value in found[name.split(":")[1]]):
            raise SystemExit("Feast finds nothing.")
        began = time.process_time()
        for number in range(look_ups):
            at = number % len(entities)
            rows = entities[at : at + 1]
            store.get_online_features(features=wanted, entity_rows=rows).to_dict()
        print((time.process_time() - began) / look_ups * 1e6)


def filled(folder: Path, tables: list[dict[str, Any]]) -> FeatureStore:
    """A store that holds the tables' rows."""
    store = FeatureStore(
        config=RepoConfig(
            project="peer",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
    )
    for table in tables:
        rows = pd.DataFrame(table["rows"]).assign(**{MOMENT: pd.Timestamp(datetime.now(UTC))})
        file = folder / f"{table['name']}.parquet"
        rows.to_parquet(file)
        entities = [
            Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in table["keys"]
        ]
        view = FeatureView(
            name=table["name"],
            entities=entities,
            schema=list(fields(table)),
            source=FileSource(path=str(file), timestamp_field=MOMENT),
        )
        store.apply([*entities, view])
        store.write_to_online_store(table["name"], df=rows)
    return store


def fields(table: Mapping[str, Any]) -> Iterator[Field]:
    """Columns of a table; keys are texts."""
    texts = {name for row in table["rows"] for name, value in row.items() if isinstance(value, str)}
    for name in (*table["keys"], *table["values"]):
        yield Field(name=name, dtype=String if name in texts else Float64)


if __name__ == "__main__":
    main()
