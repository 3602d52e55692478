"""The part of the record that lists the model versions."""

import json
import time

from anharm.server.record_database import Database, insert
from anharm.server.record_schema import ModelVersion


class ModelRecord:
    """Model versions in a record; `Record` adds the rest."""

    _database: Database

    def add_model(self, model: ModelVersion) -> None:
        """Store a model version, which must be new."""
        with self._database.transaction() as connection:
            insert(
                connection,
                "models",
                version=model.version,
                path=model.path,
                sha256=model.sha256,
                labels=json.dumps(list(model.labels)),
                hyperparameters=json.dumps(model.hyperparameters),
                created=time.time(),
            )

    def models(self) -> list[ModelVersion]:
        """Return all model versions, oldest first."""
        rows = self._database.rows("SELECT * FROM models ORDER BY version")
        return [
            ModelVersion(
                row["version"],
                row["path"],
                row["sha256"],
                tuple(json.loads(row["labels"])),
                json.loads(row["hyperparameters"]),
                row["created"],
            )
            for row in rows
        ]
