"""`pipelines assets`: list, fetch and verify the files that operators need."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.console import AssetFolders, Json, fail, out, show_json, table

asset_app = typer.Typer(help="Files that operators need.", no_args_is_help=True)


@asset_app.command("list")
def assets_list(json: Json = False) -> None:
    """List the files that operators may need, and where they can be had."""
    from pipelines.assets import catalogue

    known = catalogue.catalogue().values()
    if json:
        show_json(list(known))
        return
    rows = [
        (
            asset.name,
            asset.num_bytes,
            asset.licence,
            asset.made_by or ", ".join(map(str, asset.origins)) or asset.by_hand,
            asset.description,
        )
        for asset in known
    ]
    out(table(rows, header=("name", "bytes", "licence", "from", "what it is")))


@asset_app.command("fetch")
def assets_fetch(
    names: Annotated[list[str], typer.Argument(help="Names of assets.")],
    address: Annotated[
        str | None,
        typer.Option(
            "--from", help="Of one asset: https://, hf://OWNER/NAME/FILE, s3:// or a path."
        ),
    ] = None,
) -> None:
    """Get assets into the user's cache and verify them."""
    from pipelines.assets import catalogue
    from pipelines.assets.catalogue import AssetError
    from pipelines.records import sha256_file

    if address is not None and len(names) != 1:
        raise AssetError("--from gives the address of one asset: name one")
    for name in names:
        path = catalogue.fetch(name, address=address)
        out(f"{path} (sha256 {sha256_file(path)})")


@asset_app.command("verify")
def assets_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names; all when none.")] = None,
    assets: AssetFolders = None,
    json: Json = False,
) -> None:
    """Check that assets are there and are the files they should be."""
    from pipelines.assets import catalogue
    from pipelines.assets.catalogue import asset_files

    states = catalogue.verify(names or list(catalogue.catalogue()), assets=asset_files(assets))
    if json:
        show_json(states)
    else:
        out(table(list(states.items()), header=("name", "state")))
    if any(not state.startswith("ok ") for state in states.values()):
        fail("some assets are missing or wrong", 3)
