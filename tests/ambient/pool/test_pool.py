"""Pools: corruption as columns, once and by hash; nothing of the clean images is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ambient.pool import pool
from ambient.pool.corruption import corrupt, lines_of, mask_of
from ambient.pool.pool import Mix, Original
from pipelines.errors import PoolError
from pipelines.formats.tars import END, member
from pipelines.storage.local import LocalStore

UID = "0" * 32


def originals(number: int = 40) -> list[Original]:
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (number, 1, 8, 8)).astype(np.float32)
    return [Original(f"image {n}", image, n % 3) for n, image in enumerate(images)]


def built(folder: Path, mix: Mix, number: int = 40) -> dict[str, dict[str, object]]:
    pool.build(iter(originals(number)), str(folder), mix=mix, name="test", shard_rows=15)
    tables = [pq.read_table(path) for path in sorted((folder / "metadata").iterdir())]
    return {row["uid"]: row for table in tables for row in table.to_pylist()}


def images_of(folder: Path) -> dict[str, np.ndarray]:
    store = LocalStore(folder)
    names = sorted(f"shards/{path.name}" for path in (folder / "shards").iterdir())
    return {uid: image for name in names for uid, image in pool.read_images(store, name)}


def test_a_pool_has_a_row_and_an_image_for_each_original(tmp_path: Path) -> None:
    mix = Mix(clean_share=0.3, kind="gaussian", level=0.5)
    rows, images = built(tmp_path, mix), images_of(tmp_path)
    assert set(rows) == set(images) == {pool.uid_of(original) for original in originals()}
    for original in originals():
        uid = pool.uid_of(original)
        if rows[uid]["corruption"] == "none":
            assert rows[uid]["source"] == original.source
            np.testing.assert_allclose(images[uid], original.image, atol=1e-3)
        else:
            gap = images[uid].astype(np.float32) - original.image
            assert 0.3 < gap.std() < 0.7
            assert rows[uid]["source"] == ""  # a name could lead to the clean image
    clean = sum(row["corruption"] == "none" for row in rows.values())
    assert 4 <= clean <= 20


def test_noise_is_not_clipped(tmp_path: Path) -> None:
    built(tmp_path, Mix(clean_share=0.0, kind="gaussian", level=0.5))
    assert max(abs(image).max() for image in images_of(tmp_path).values()) > 1.5


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    mix = Mix(clean_share=0.3, level=0.5)
    for name in ("a", "b"):
        built(tmp_path / name, mix)
    for path in sorted((tmp_path / "a").rglob("*.tar")):
        assert path.read_bytes() == (tmp_path / "b" / "shards" / path.name).read_bytes()


def test_a_larger_pool_keeps_the_same_images_clean(tmp_path: Path) -> None:
    mix = Mix(clean_share=0.3, level=0.5)
    small, large = built(tmp_path / "a", mix, 20), built(tmp_path / "b", mix, 40)
    assert all(large[uid] == row for uid, row in small.items())


def test_the_same_image_twice_is_one_row(tmp_path: Path) -> None:
    same = originals(1) * 2
    record = pool.build(iter(same), str(tmp_path), mix=Mix(clean_share=1.0), name="test")
    assert record.counts["images"] == 1
    assert record.counts["repeated"] == 1


def test_each_corruption() -> None:
    image = originals(1)[0].image
    masked = corrupt(image, "mask", 0.5, uid=UID, seed=1)
    mask = mask_of(UID, 1, 0.5, (8, 8))
    np.testing.assert_array_equal(masked[0], image[0] * mask)
    assert corrupt(image, "blur", 2.0, uid=UID, seed=1).std() < image.std() / 2
    lines = lines_of(UID, 1, 4, 8)
    assert lines.sum() == 2
    spectrum = np.fft.fftshift(np.fft.fft2(corrupt(image, "fourier", 4, uid=UID, seed=1)[0]))
    assert abs(spectrum[:, 4]).sum() > 0
    with pytest.raises(ValueError, match="levels from 0 to 1"):
        corrupt(image, "mask", 1.5, uid=UID, seed=1)


def test_a_folder_of_images_becomes_a_pool(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "images" / label / "a.png")
    images = list(pool.from_folder(str(tmp_path / "images"), resolution=8, channels=3))
    assert [image.label for image in images] == [0, 1]
    assert images[0].image.shape == (3, 8, 8)
    np.testing.assert_array_equal(images[0].image[:, 0, 0], [1, -1, -1])


def test_tars_of_webdataset_become_a_pool(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 0).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    tar = b"".join((member(b"k1.png", data), member(b"k1.cls", b"7"), END))
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").write_bytes(tar)
    [image] = pool.from_tars(str(tmp_path / "tars"), resolution=8, channels=1)
    assert image.label == 7
    assert image.image.max() == -1


def save_npz(path: Path, kspace: np.ndarray) -> None:
    np.savez(path / "scan.npz", kspace=kspace)


def save_h5(path: Path, kspace: np.ndarray) -> None:
    """As FastMRI's files have it: complex64, beside attributes and other datasets."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path / "scan.h5", "w") as file:
        file.create_dataset("kspace", data=kspace.astype(np.complex64))
        file.create_dataset("reconstruction_rss", data=np.zeros((2, 12, 12), np.float32))
        file.attrs["acquisition"] = "AXT2"


@pytest.mark.parametrize("save", [save_npz, save_h5])
def test_k_space_becomes_magnitude_images(
    save: Callable[[Path, np.ndarray], None], tmp_path: Path
) -> None:
    """One coil that sees a bright square; the image is its magnitude, scaled to [-1, 1]."""
    image = np.zeros((2, 1, 16, 12))
    image[:, :, 6:10, 4:8] = 3.0
    shifted = np.fft.ifftshift(image, axes=(2, 3))
    save(tmp_path, np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(2, 3)))
    slices = list(pool.from_fastmri(str(tmp_path), resolution=12))
    assert len(slices) == 2
    np.testing.assert_allclose(slices[0].image[0, 4:8, 4:8], 1, atol=1e-5)
    np.testing.assert_allclose(slices[0].image[0, 0], -1, atol=1e-5)


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    save_h5(tmp_path, np.ones((1, 1, 8, 8), complex))
    whole = (tmp_path / "scan.h5").read_bytes()
    (tmp_path / "scan.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PoolError, match=r"scan\.h5 is not an HDF5 file, or is cut off"):
        list(pool.from_fastmri(str(tmp_path), resolution=8))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda path: list(pool.from_folder(path, resolution=8, channels=1)), "no images below"),
        (lambda path: list(pool.from_tars(path, resolution=8, channels=1)), "no .tar files below"),
        (lambda path: list(pool.from_fastmri(path, resolution=8)), "no .h5 or .npz files"),
    ],
)
def test_an_empty_folder_is_an_error(read: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=message):
        read(str(tmp_path))  # type: ignore[operator]
