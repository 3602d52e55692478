"""What [reference.cluster] may say, and what it is told otherwise."""

import pytest

from anharm.configuration import load_configuration
from anharm.errors import ConfigurationError

HEAD = """
[crystal]
primitive = "primitive.xyz"
supercell = [2, 2, 2]
[expansion]
cutoffs = { 2 = 5.0 }
"""


@pytest.fixture
def load(tmp_path):
    def load_text(cluster, reference='command = "pw.x -ipi login1:31415 -in pw.in"'):
        (tmp_path / "primitive.xyz").touch()
        file = tmp_path / "run.toml"
        file.write_text(f"{HEAD}[reference]\n{reference}\n[reference.cluster]\n{cluster}\n")
        return load_configuration(file).reference

    return load_text


SLURM = 'provider = "slurm"\nwalltime = "01:30:00"'
REACHABLE = 'command = "pw.x"\naddress = "tcp://login1:31415"\nallow_remote = true'


def test_a_scheduler_that_nodes_reach_is_accepted_and_may_let_clients_queue(load):
    reference = load(SLURM, REACHABLE)
    assert reference.cluster.seconds == 5400
    assert reference.connection_limit == 86400
    assert load(SLURM, REACHABLE + "\nconnection_limit = 5.0").connection_limit == 5
    assert load('provider = "local"').connection_limit == 60


@pytest.mark.parametrize(
    ("cluster", "reference", "message"),
    [
        ('provider = "slrm"', REACHABLE, 'expected "local", "slurm"'),
        ('provider = "slurm"', REACHABLE, "walltime is missing"),
        ('provider = "slurm"\nwalltime = "90"', REACHABLE, "hours, minutes and seconds"),
        ('provider = "slurm"\nwalltime = "00:00:00"', REACHABLE, "hours, minutes and seconds"),
        ('provider = "local"\nnodes = 2\npartition = "p"', REACHABLE, "partition, nodes: only for"),
        (SLURM.replace("slurm", "torque") + "\ncores = 8", REACHABLE, "cannot ask torque"),
        (SLURM + "\nblocks = 1\nminimum_blocks = 2", REACHABLE, "is above blocks = 1"),
        (SLURM + "\npartitions = 'p'", REACHABLE, "did you mean `partition`?"),
        (SLURM, 'command = "pw.x"', "a socket of this host, which clients on other nodes"),
        (SLURM, REACHABLE.replace("login1", "0.0.0.0"), "does not say how nodes reach this host"),
        (
            SLURM + '\naddress = "login1"',
            REACHABLE.replace("login1", "0.0.0.0").replace(
                'command = "pw.x"', 'calculator = { name = "tersoff-silicon" }'
            ),
            "on another node that is no address of this host",
        ),
        (SLURM, REACHABLE.replace('command = "pw.x"', ""), "but not which: give reference.command"),
    ],
)
def test_what_could_not_work_is_refused_with_the_remedy(load, cluster, reference, message):
    with pytest.raises(ConfigurationError, match=r"reference\.cluster") as error:
        load(cluster, reference)
    assert message in str(error.value)
