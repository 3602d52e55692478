"""The part of the record that keeps configurations of trajectories (see configuration_sample)."""

from collections.abc import Iterator

from anharm.server.record_database import Database
from anharm.server.record_schema import SampledConfiguration, decode_vectors, encode_array


class ConfigurationRecord:
    """Configurations in a record; `Record` adds the rest."""

    _database: Database

    def add_configuration(self, configuration: SampledConfiguration) -> None:
        """Keep a configuration of a trajectory; another one of the same step is replaced."""
        with self._database.transaction(durable=False) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO configurations VALUES (?, ?, ?, ?)",
                (
                    configuration.trajectory,
                    configuration.step,
                    encode_array(configuration.positions),
                    encode_array(configuration.cell),
                ),
            )

    def thin_configurations(self, trajectory: str, stride: int) -> None:
        """Forget the configurations whose step is no multiple of a stride."""
        with self._database.transaction(durable=False) as connection:
            connection.execute(
                "DELETE FROM configurations WHERE trajectory = ? AND step % ? != 0",
                (trajectory, stride),
            )

    def configuration_steps(self, trajectory: str) -> list[int]:
        """Return the steps of the configurations that are kept of a trajectory."""
        rows = self._database.rows(
            "SELECT step FROM configurations WHERE trajectory = ? ORDER BY step", (trajectory,)
        )
        return [row["step"] for row in rows]

    def configurations(self) -> Iterator[SampledConfiguration]:
        """Iterate over the configurations that are kept, by trajectory and step."""
        for row in self._database.rows("SELECT * FROM configurations ORDER BY trajectory, step"):
            yield SampledConfiguration(
                row["trajectory"],
                row["step"],
                decode_vectors(row["positions"]),
                decode_vectors(row["cell"]),
            )
