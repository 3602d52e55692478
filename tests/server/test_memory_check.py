"""What would not fit into memory is refused before it is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from anharm.errors import ModelError
from anharm.model.expansion_size import ExpansionSize
from anharm.server import memory_check
from anharm.server.memory_check import available_memory, check_expansion

SIZE = ExpansionSize(2, 40.0, {2: 1000, 4: 90_000}, {2: 30, 4: 12_000}, {2: 25, 4: 9975})


def test_what_does_not_fit_is_refused_with_both_numbers_and_the_order_to_lower() -> None:
    with pytest.raises(ModelError) as caught:
        check_expansion(SIZE, "fit", 64, 10, available=4_000_000_000)
    text = str(caught.value)
    assert "about 10000 parameters (9975 of order 4)" in text
    assert "4 GB are available on this machine" in text
    assert "lower the cutoff of order 4" in text


def test_a_run_needs_more_than_a_fit() -> None:
    check_expansion(SIZE, "fit", 64, 10, available=14_000_000_000)
    with pytest.raises(ModelError):
        check_expansion(SIZE, "run", 64, 10, available=14_000_000_000)
    check_expansion(SIZE, "run", 64, 10, available=10**11)


def test_what_could_not_even_be_counted_is_refused_on_any_machine() -> None:
    size = ExpansionSize(2, 40.0, {6: 10**9}, {6: 10**7}, {6: 10**7}, is_complete=False)
    with pytest.raises(ModelError, match="more than 10000000 parameters"):
        check_expansion(size, "fit", 64, 10, available=10**18)


def test_this_machine_has_memory() -> None:
    assert 10**8 < available_memory() < 10**14


GROUPS = {
    "version 1": (
        "3:cpu:/\n4:memory:/job/7\n",
        {"memory/job/7": ("memory.limit_in_bytes", 5_000, "memory.usage_in_bytes", 1_000),
         "memory/job": ("memory.limit_in_bytes", 2**63 - 4096, "memory.usage_in_bytes", 9_000)},
        4_000,
    ),
    "version 2, the limit of the group above": (
        "0::/job/7\n",
        {"job/7": ("memory.max", "max", "memory.current", 1_000),
         "job": ("memory.max", 3_000, "memory.current", 2_500)},
        500 + 300,
    ),
    "no limit": ("0::/\n", {"": ("memory.max", "max", "memory.current", 7)}, 8_192),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_limits_of_containers_and_batch_jobs_count(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, files, expected = GROUPS[name]
    for folder, (limit_name, limit, usage_name, usage) in files.items():
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / folder / limit_name).write_text(f"{limit}\n")
        (tmp_path / "cgroup" / folder / usage_name).write_text(f"{usage}\n")
    if name.startswith("version 2"):
        (tmp_path / "cgroup/job/memory.stat").write_text("anon 5\ninactive_file 300\n")
    (tmp_path / "groups").write_text(groups)
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 8 kB\n")
    monkeypatch.setattr(memory_check, "_MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(memory_check, "_CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory_check, "_CONTROL_GROUP_ROOT", tmp_path / "cgroup")
    assert available_memory() == expected
