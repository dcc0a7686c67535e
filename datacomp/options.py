"""Options of stage commands that only this benchmark has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leaderboard.benchmark import StageOptions


class RegisterOptions(StageOptions):
    """Where data that was curated elsewhere is: one of five forms."""

    uids: str | None = Field(None, description="A list of uids: .npy of u8,u8, or raw records.")
    parquet: str | None = Field(None, description="Or: folder or prefix of tables of your own.")
    pool: str | None = Field(None, description="With --uids: the pool that all of them must be in.")
    folder: str | None = Field(None, description="Or: a folder of images with captions.")
    captions: str | None = Field(
        None, description="With --folder: names and captions, as .csv, .tsv, .jsonl or .parquet."
    )
    webdataset: str | None = Field(None, description="Or: a folder of tars of images and captions.")
    img2dataset: str | None = Field(
        None, description="Or: what img2dataset wrote, its tars or its files."
    )


class PackOptions(StageOptions):
    """Where the images are; and, for a bare list of uids, how they are packed without a recipe."""

    tars: str | None = Field(
        None,
        description="The pool's tars; default: the pool's.",
        json_schema_extra={"flags": ["--input"]},
    )
    subset: str | None = Field(
        None, description="Instead of --dataset: a list of uids, .npy or raw records, for --input."
    )
    shard_size: int = Field(10_000, ge=1, description="With --subset: samples of an output shard.")
    group_shards: int = Field(
        64, ge=1, description="With --subset: input shards that are packed together."
    )
    blur_map: str | None = Field(
        None, description="With --subset: which table has the faces of which tars."
    )
    apply_blur: bool = Field(False, description="Blur the faces; images become WebP.")
    inject_faces: bool = Field(False, description="Add face_bboxes to each sample's json.")
    webp_quality: int = Field(100, ge=1, le=100, description="Of images that are blurred.")
    repeats: Literal["all", "first"] = Field(
        "all",
        description="With --subset: samples whose uid was there before, as the reference.",
    )
    overwrite: bool = Field(False, description="Empty the folder of other work first.")
    quarantine: bool = Field(False, description="Take what is whole of damaged tars.")
    dry_run: bool = Field(False, description="Count what would be copied; write nothing.")


class TrainOptions(StageOptions):
    """How fast a training run goes; what it trains stays the same."""

    max_batch: int | None = Field(
        None, ge=1, description="Samples that one GPU holds; the batch is computed in parts."
    )
    loader_workers: int | None = Field(
        None, ge=0, description="Loader processes of one GPU; default: the recipe's."
    )
    compile: bool | None = Field(
        None, description="Run the model through torch.compile; default: on GPUs."
    )
