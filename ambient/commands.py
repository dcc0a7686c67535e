"""Commands that only this benchmark has: corrupt, sample, restore, price, personalise, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ambient import track_commands
from leaderboard.rounds.options import RecipeFile
from leaderboard.rounds.show import show_pool
from pipelines.console import Json, out, show_json, table
from pipelines.errors import UsageError
from pipelines.execution.progress import say

app = typer.Typer()
app.registered_commands += track_commands.app.registered_commands

Scale = Annotated[str, typer.Option(help="The scale, as in the rule book.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed, other noise.")]


@app.command("corrupt")
def corrupt(
    images: Annotated[str, typer.Argument(help="Folder or prefix of clean images.")],
    folder: Annotated[str, typer.Option("--out", help="Where the pool goes.")],
    scale: Scale,
    layout: Annotated[
        Literal["folder", "webdataset", "fastmri"], typer.Option(help="How the images are stored.")
    ] = "folder",
    clean_share: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of the images that stays clean.")
    ] = 0.1,
    kind: Annotated[
        Literal["gaussian", "mask", "blur", "fourier"], typer.Option(help="Corruption of the rest.")
    ] = "gaussian",
    level: Annotated[
        list[float] | None,
        typer.Option(
            help="Noise on [-1, 1]; hidden fraction; pixels of blur; acceleration; default: 0.2. "
            "Repeated: each image has one of them, by hash."
        ),
    ] = None,
    withhold: Annotated[
        Path | None,
        typer.Option(help="For track `unknown`: a .parquet file for what was done to each image."),
    ] = None,
    seed: Seed = 0,
    name: Annotated[str, typer.Option(help="The pool's name in its record.")] = "own",
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Make a pool of your own images: corrupt most of them once, and keep no clean copy.

    Images are cut and resized to the scale's resolution before they are corrupted.
    """
    from ambient.extra import ambient_extra
    from ambient.pool import pool
    from ambient.recipe import load_recipe
    from pipelines.images.pairs import open_pairs

    chosen = load_recipe(recipe or scale)
    with ambient_extra():
        if layout == "fastmri":
            if chosen.channels != 1:
                raise UsageError(
                    f"scale {scale} has {chosen.channels} channels, k-space gives images of one"
                )
            originals = pool.from_fastmri(images, resolution=chosen.resolution)
        else:
            read = {"folder": pool.from_folder, "webdataset": pool.from_tars}[layout]
            originals = read(images, resolution=chosen.resolution, channels=chosen.channels)
        levels = tuple(level or (0.2,))
        mix = pool.Mix(
            clean_share=clean_share,
            kind=kind,
            level=levels[0],
            levels=levels if len(levels) > 1 else (),
            seed=seed,
        )
        if withhold is not None and withhold.exists():
            raise UsageError(f"--withhold {withhold} exists already; name a new file")
        pool.build(originals, folder, mix=mix, name=name, withheld=withhold)
    show_pool(open_pairs(folder), json=json)


@app.command("sample")
def sample(
    model: Annotated[str, typer.Argument(help="A folder that `ambient train` finished.")],
    file: Annotated[Path, typer.Option("--out", help="The .png file of the grid.")],
    number: Annotated[int, typer.Option(min=1, help="How many images.")] = 64,
    columns: Annotated[int, typer.Option(min=1, help="Images in a row.")] = 8,
    enlarge: Annotated[int, typer.Option(min=1, help="Side in pixels of each image pixel.")] = 4,
    seed: Seed = 0,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Below each row, the nearest training images.")
    ] = False,
) -> None:
    """Draw a grid of a model's images."""
    from ambient.extra import ambient_extra

    with ambient_extra():
        from ambient.eval_model import load
        from ambient.image_grids import sample_grid, save

        image = sample_grid(load(model), number=number, columns=columns, seed=seed, nearest=nearest)
        save(image, file, enlarge=enlarge)
    out(f"{file}: {number} images of {model}")


@app.command("restore")
def restore(
    model: Annotated[str, typer.Argument(help="A folder that `ambient train` finished.")],
    data: Annotated[Path, typer.Option(help="An .npz file with `images` in [-1, 1].")],
    file: Annotated[Path, typer.Option("--out", help="The .png file of the grid.")],
    task: Annotated[
        Literal["inpainting", "superresolution", "fourier"], typer.Option(help="What is measured.")
    ] = "fourier",
    acceleration: Annotated[
        int, typer.Option(min=1, help="Fourier: one column in so many is measured.")
    ] = 4,
    zeta: Annotated[float, typer.Option(help="Strength of the guidance.")] = 1.0,
    number: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    draws: Annotated[int, typer.Option(min=1, help="Samples that are averaged.")] = 4,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Restore images from measurements with a trained model as the prior (DPS).

    The grid shows the truth, the zero-filled image (the adjoint), one sample, and the mean.
    """
    from ambient.extra import ambient_extra

    with ambient_extra():
        from ambient.eval_model import load
        from ambient.image_grids import restoration, save

        restored = restoration(
            load(model),
            data,
            task=task,
            acceleration=acceleration,
            zeta=zeta,
            number=number,
            draws=draws,
            seed=seed,
        )
        save(restored.image, file, enlarge=4)
    if json:
        show_json(restored.errors)
        return
    rows = [(name, f"{value:.3f}") for name, value in restored.errors.items()]
    out(table(rows, header=(f"{task}, zeta {zeta:g}", "normalised error")))


@app.command("price")
def price(
    runs: Annotated[
        Path | None,
        typer.Option(help="A .jsonl file of runs: num_clean, num_noisy, level, seed, distance."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", help="An .svg file of the law.")] = None,
    json: Json = False,
) -> None:
    """What is a noisy image worth? Fits the law to runs, or without runs shows the exact toy world.

    The largest size is held out; the mean error of the law's prediction there is printed.
    """
    from ambient.extra import ambient_extra

    with ambient_extra():
        from ambient.systems import price as law

        if runs is None:
            shown = [
                (
                    f"{ratio} tau",
                    *(f"{law.worths(0.25 * ratio)[key]:.3f}" for key in ("alone", "mixed")),
                )
                for ratio in (1, 2, 3, 4)
            ]
            out(table(shown, header=("noise", "worth alone", "worth next to clean ones")))
            return
        report = law.report(law.read_runs(runs))
        if file is not None:
            law.draw(report, file)
    if json:
        show_json(report)
        return
    rows = [
        (
            f"{entry.level:g}",
            f"{entry.worth:.3f}",
            f"{entry.low:.3f} to {entry.high:.3f}",
            f"{entry.price:.2f}",
        )
        for entry in report.worths
    ]
    out(table(rows, header=("level", "worth", "95 % of seeds", "price")))
    if report.held_out_error is not None:
        out(f"largest size held out: mean error of the prediction {report.held_out_error:.1%}")


@app.command("personalise")
def personalise(
    model: Annotated[str, typer.Argument(help="A Stable Diffusion pipeline in a local folder.")],
    images: Annotated[str, typer.Option(help="Folder of a few images of one concept.")],
    folder: Annotated[Path, typer.Option("--out", help="A new folder for words and grid.")],
    prompt: Annotated[str, typer.Option(help="{} is where the word is.")] = "a photo of {}",
    start: Annotated[
        str, typer.Option(help="A known word that the new words start from.")
    ] = "object",
    steps: Annotated[int, typer.Option(min=1, help="Of learning.")] = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Noised images of one step.")] = 4,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam.")] = 5e-3,
    number: Annotated[int, typer.Option(min=1, help="Images of each resolution.")] = 4,
    sampler_steps: Annotated[int, typer.Option(min=2, help="Of the pipeline's sampler.")] = 50,
    guidance: Annotated[float, typer.Option(min=1, help="Classifier-free guidance.")] = 7.5,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: a GPU.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Learn a concept as ten pseudo-words, one for each band of noise, and draw it.

    Rows of the grid are resolutions 0, .2, .4, .6, .8: from the concept itself to its outline.
    """
    from ambient.extra import ambient_extra

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name a new folder with --out")
    with ambient_extra():
        from ambient.image_grids import grid, save
        from ambient.pool.pool import from_folder
        from ambient.systems import concept

        how = concept.Learning(
            prompt=prompt,
            start=start,
            num_steps=steps,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
        )
        pipe = concept.open_pipeline(model, device=device)
        originals = from_folder(images, resolution=concept.side_of(pipe), channels=3)
        learnt = concept.learn(pipe, [original.image for original in originals], how)
        concept.save(learnt, folder, how, model=model)
        drawn = concept.draw(
            learnt, prompt, number=number, num_steps=sampler_steps, guidance=guidance, seed=seed
        )
        save(grid(drawn, columns=number), folder / "grid.png")
    if json:
        show_json({"folder": str(folder), "tokens": learnt.tokens, "losses": learnt.losses})
        return
    tenth = max(1, len(learnt.losses) // 10)
    first, last = (sum(part) / tenth for part in (learnt.losses[:tenth], learnt.losses[-tenth:]))
    out(f"{folder}: {len(learnt.tokens)} words, loss {first:.4f} to {last:.4f}; grid.png")


@app.command("plan")
def plan(
    scale: Scale,
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs.")],
    gpu: Annotated[str, typer.Option(help="h100, h200, a100, a100-40 or l40s.")] = "h100",
    data: Annotated[
        str | None, typer.Option("--data", "--packed", help="A packed dataset: how often seen?")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Images a second of one GPU; default: assumed.")
    ] = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Estimate before a training run what it needs: memory, hours, cost; refuse the impossible."""
    from ambient import plan as planning
    from ambient.recipe import load_recipe
    from leaderboard.rounds.gpus import gpu_named

    available = None
    if data is not None:
        from pipelines.storage.chain import read_chain
        from pipelines.storage.open import open_store

        available = read_chain(open_store(data))[-1].counts["images"]
    made = planning.plan(
        load_recipe(recipe or scale), num_gpus=gpus, gpu=gpu, images_available=available, rate=rate
    )
    if json:
        show_json(made)
        return
    room = gpu_named(gpu).memory_bytes
    rows = [
        ("GPUs", f"{made.num_gpus} {made.gpu}"),
        ("parameters", f"{made.params / 1e6:.1f} M, about"),
        ("memory", f"{made.memory_bytes / 1e9:.1f} GB a GPU of {room / 1e9:.0f}"),
        ("batch of a GPU", f"{made.images_per_gpu:,} images, {made.pieces} times a step"),
        ("steps", f"{made.num_steps:,}"),
        ("images seen", f"{made.images:,}"),
        ("FLOPs of an image", f"{made.flops_per_image / 1e9:.2f} G"),
        ("images/s", f"{made.images_per_second:,.0f}"),
        ("hours", f"{made.hours:,.1f} (${made.dollars:,.0f})"),
    ]
    if made.passes is not None:
        rows.append(("passes over the dataset", f"{made.passes:.1f}"))
    out(table(rows, header=(f"plan of {made.scale}", "")))
    for warning in made.warnings:
        say(f"note: {warning}")
