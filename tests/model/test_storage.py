"""A model file holds the model bit for bit, and anything else is refused in plain words."""

from __future__ import annotations

import io
import tracemalloc
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import issparse

from anharm.errors import ModelError
from anharm.model import (
    BayesianModel,
    Crystal,
    ForceField,
    Supercell,
    build_expansion,
    load_model,
    save_model,
)
from anharm.model.storage import _sealed, model_from_bytes, model_to_bytes


@pytest.fixture(scope="module")
def model(laboratory) -> BayesianModel:
    model: BayesianModel = laboratory.random_model(laboratory.expansion("tin selenide"))
    provenance = {"labels": "äöü", "note": "x" * 99_999}
    return replace(model, version=7, n_labels=12, provenance=provenance)


@pytest.fixture(scope="module")
def content(model: BayesianModel) -> bytes:
    return model_to_bytes(model)


def identical(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever holds the numbers."""
    if is_dataclass(a):
        return type(a) is type(b) and all(
            identical(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)
        )
    if issparse(a):
        return a.shape == b.shape and all(
            identical(getattr(a, key), getattr(b, key)) for key in ("data", "indices", "indptr")
        )
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype.kind == b.dtype.kind and bool(np.all(a == b))
    return bool(a == b) and type(a) is type(b)


def test_a_round_trip_changes_no_bit(model: BayesianModel, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    first = save_model(model, path)
    loaded = load_model(path)
    assert identical(loaded, model)
    assert save_model(loaded, path) == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.h5"]


def test_a_loaded_model_predicts_bit_for_bit(model: BayesianModel, content: bytes) -> None:
    loaded = model_from_bytes(content, "here")
    matrix = np.diag([1, 2, 2])
    u = np.random.default_rng(0).normal(0, 0.1, (1, 32, 3))
    before = ForceField(model, Supercell(model.expansion.crystal, matrix)).predict(u)
    after = ForceField(loaded, Supercell(loaded.expansion.crystal, matrix)).predict(u)
    for key in ("energies", "forces", "virials", "force_std"):
        np.testing.assert_array_equal(getattr(after, key), getattr(before, key))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_truncated_files_are_refused(content: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(ModelError, match=r"broken\.h5"):
        model_from_bytes(content[:length], "broken.h5")


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_is_refused(content: bytes, data: st.DataObject) -> None:
    """Before HDF5 sees it: some damaged files make the HDF5 library loop for ever."""
    damaged = bytearray(content)
    damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ModelError, match=r"broken\.h5"):
        model_from_bytes(bytes(damaged), "broken.h5")


@given(garbage=st.binary(max_size=2000))
@settings(max_examples=50, deadline=None)
def test_other_files_are_refused(garbage: bytes) -> None:
    with pytest.raises(ModelError, match="not an anharm model file"):
        model_from_bytes(garbage, "other.h5")


def test_hdf5_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "fc2.hdf5", "w") as file:
        file["force_constants"] = np.zeros((2, 2, 3, 3))
    with pytest.raises(ModelError, match=r"fc2\.hdf5 is not an anharm model file"):
        load_model(tmp_path / "fc2.hdf5")


def test_any_hdf5_program_can_read_a_model_file(model: BayesianModel, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    save_model(model, path)
    with h5py.File(path) as file:
        assert file.attrs["format"] == "anharm model"
        np.testing.assert_array_equal(file["posterior/mean"], model.posterior.mean)


def altered(content: bytes, change: Any) -> bytes:
    """A file of other content with a matching checksum, as a peer could send it."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        change(file)
    body = buffer.getvalue()[512:]
    return _sealed(body) + body


def replace_dataset(file: h5py.File, name: str, values: Any) -> None:
    del file[name]
    file[name] = values


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f: f.attrs.__setitem__("format", "something else"), "not an anharm model"),
        (lambda f: f.attrs.__delitem__("format"), "not an anharm model"),
        (lambda f: f.attrs.__setitem__("format_version", 99), "format 99"),
        (lambda f: f.attrs.__delitem__("format_version"), "not a readable"),
        (lambda f: f.__delitem__("posterior/mean"), "not a readable"),
        (lambda f: f.__delitem__("expansion/crystal"), "not a readable"),
        (lambda f: replace_dataset(f, "posterior/mean", np.zeros(3)), "contradicts itself"),
        (lambda f: replace_dataset(f, "expansion/bodies", np.zeros((3, 4), int)), "contradicts"),
        (lambda f: replace_dataset(f, "expansion/bodies", 5), "not fit|contradicts|readable"),
    ],
)
def test_forged_files_are_refused(content: bytes, change: Any, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        model_from_bytes(altered(content, change), "other.h5")


def fill(file: h5py.File, name: str, **create: Any) -> None:
    """An array that takes no room in the file."""
    del file[name]
    file.create_dataset(name, **create)


def many_texts(file: h5py.File) -> None:
    """A forger can let all of them be the same text, of any length."""
    file["provenance"].attrs.create("note", ["x" * 1000] * 4000, dtype=h5py.string_dtype())


def many_groups(file: h5py.File) -> None:
    for number in range(1001):
        file.create_group(f"provenance/{number}")


def link(file: h5py.File, name: str, target: Any) -> None:
    del file[name]
    file[name] = target


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda f: fill(f, "posterior/factor", shape=(1 << 15, 1 << 15), dtype="f8"), "allowed"),
        (lambda f: fill(f, "posterior/mean", shape=(HUGE,), dtype="f8", chunks=(64,)), "allowed"),
        (
            lambda f: fill(
                f, "expansion/bodies", shape=(HUGE, 4), dtype="i8", chunks=(64, 4),
                compression="gzip",
            ),
            "allowed",
        ),
        (lambda f: fill(f, "posterior/mean", shape=(9,), dtype=("f8", (999, 999))), "not numbers"),
        (lambda f: fill(f, "posterior/mean", shape=(9,), dtype=h5py.string_dtype()), "not numbers"),
        (
            lambda f: fill(
                f, "posterior/mean", shape=(9,), dtype="f8", external=[("/etc/passwd", 0, 72)]
            ),
            "in another file",
        ),
        (lambda f: link(f, "posterior", h5py.ExternalLink("/dev/zero", "/")), "somewhere else"),
        (lambda f: link(f, "posterior", h5py.SoftLink("/expansion")), "somewhere else"),
        (many_texts, "of the kind"),
        (many_groups, "more than 1000 objects"),
        (lambda f: f.attrs.__setitem__("version", np.arange(1000)), "of the kind"),
        (lambda f: replace_dataset(f, "posterior/orders", np.zeros((1000, 1000))), "readable"),
        (lambda f: f["expansion/order_2"].attrs.__setitem__("parameters", 10**15), "contradicts"),
        (lambda f: f["expansion/order_2"].attrs.__setitem__("parameters", -1), "contradicts"),
        (lambda f: f.move("expansion/order_3", "expansion/order_1000000"), "contradicts"),
        (lambda f: f.attrs.__setitem__("energy_per_cell", np.inf), "contradicts"),
        (lambda f: f["posterior/mean"].__setitem__(0, np.nan), "contradicts"),
        (lambda f: f["expansion/crystal/numbers"].__setitem__(0, 10**6), "contradicts"),
        (lambda f: f["expansion/crystal/lattice"].__setitem__(..., 0.0), "contradicts"),
        (lambda f: f["expansion/monomial_orders"].__setitem__(0, 10**6), "contradicts"),
    ],
)  # fmt: skip
def test_files_that_ask_for_too_much_are_refused_before_they_are_read(
    content: bytes, change: Any, word: str
) -> None:
    """Whoever sends one can make its checksum match."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=rf"other\.h5.*{word}"):
            model_from_bytes(altered(content, change), "other.h5")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_a_group_that_holds_itself_is_read_once(content: bytes) -> None:
    def loop(file: h5py.File) -> None:
        file["provenance/again"] = file["provenance"]

    model_from_bytes(altered(content, loop), "other.h5")


def test_a_model_of_another_crystal_is_not_taken_over(laboratory) -> None:
    """Also where the crystals have the same structure, and so the same polynomials."""
    silicon, germanium = (
        build_expansion(Crystal.from_atoms(bulk(name, "diamond", a=a)), {2: 2.6})
        for name, a in (("Si", 5.43), ("Ge", 5.43))
    )
    first = laboratory.random_model(silicon)
    field = ForceField(first, Supercell(silicon.crystal, 2 * np.eye(3, dtype=int)))
    with pytest.raises(ModelError, match="another crystal"):
        field.use(laboratory.random_model(germanium))
    assert field.model is first


def test_arrays_that_index_beyond_each_other_are_refused(model: BayesianModel) -> None:
    """Consistent with its checksum, but not with itself: compiled code would read wild memory."""
    variables = model.expansion.monomials.variables.copy()
    variables[0, 0] = 10**6
    monomials = replace(model.expansion.monomials, variables=variables)
    bodies = model.expansion.bodies.copy()
    bodies[0, 3] = 99
    for expansion in (
        replace(model.expansion, monomials=monomials),
        replace(model.expansion, bodies=bodies),
    ):
        forged = model_to_bytes(replace(model, expansion=expansion))
        with pytest.raises(ModelError, match="contradicts itself"):
            model_from_bytes(forged, "forged.h5")
    short = replace(model.posterior, mean=model.posterior.mean[:-1])
    with pytest.raises(ModelError, match="contradicts itself"):
        model_from_bytes(model_to_bytes(replace(model, posterior=short)), "forged.h5")


def test_missing_files_and_folders_are_named(model: BayesianModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.h5"):
        load_model(tmp_path / "absent.h5")
    with pytest.raises(ModelError, match="cannot read"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="cannot write"):
        save_model(model, tmp_path / "absent" / "model.h5")


def test_a_failed_write_leaves_the_old_file(
    model: BayesianModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.h5"
    save_model(model, path)
    old = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelError, match="No space left"):
        save_model(replace(model, version=8), path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.h5"]
