"""The verb that changes a collection's recipe: upgrade."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPath, Json, Quiet, RecipeName, Weights, Workers, chosen_recipe
from resight.cli.progress import Reporter, clock
from resight.errors import QueryError

if TYPE_CHECKING:
    from resight.search.upgrade import UpgradeReport

NAMED = 20  # photos that could not be described, as many as are told of


def upgrade(
    collection: CollectionPath,
    recipe: RecipeName = None,
    weights: Weights = None,
    workers: Workers = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="Take out images whose photo is gone, has changed or cannot be read.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Give up an upgrade that was begun.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Describe a collection's images again with another recipe, while it is searched, and then search by that.

    Where the new recipe describes images as the old one does no photo is read. An interrupted run is gone on with by
    the same command, and takes up images that came or went meanwhile. Until all are described searches are by the old
    recipe, then by the new one. Where a photo is gone the collection stays as it is and the photo is named: exits with
    1.
    """
    from resight.search.upgrade import cancel as give_up
    from resight.search.upgrade import upgrade as change

    if cancel:
        if recipe is not None or weights is not None or drop:
            raise QueryError("--cancel goes with no other option: leave --recipe, --weights and --drop out")
        output.line("given up" if give_up(collection) else "no upgrade was begun")
        return
    if recipe is None:
        raise QueryError("say which recipe to upgrade to: --recipe (see `resight recipes`)")
    chosen = chosen_recipe(recipe, weights)
    try:
        with Reporter(quiet) as reporter:
            report = change(collection, chosen, drop=drop, workers=workers, progress=reporter)
    except KeyboardInterrupt as error:
        output.note(f"stopped. {collection} is searched as before; the same command goes on from here")
        raise typer.Exit(130) from error
    if json:
        output.line(output.as_json(asdict(report)))
    elif report.changed and not quiet:
        _tell(report, str(collection))
    if not report.changed:
        count = len(report.lacking)
        output.note(
            f"{collection} stays as it was, since {count:,} of {report.images:,} images could not be described. Bring "
            f"the photos back, or remove the images (`resight remove {collection} WHAT`), and run this again; or run "
            "it with --drop, which leaves them out:"
        )
        for origin, reason in report.lacking[:NAMED]:
            output.note(f"  {output.printable(origin)}: {reason}")
        if count > NAMED:
            output.note(f"  and {count - NAMED:,} more: --json names all")
        raise typer.Exit(1)


def _tell(report: "UpgradeReport", collection: str) -> None:
    output.line(
        f"{report.images:,} images are by recipe {report.recipe} now, {report.described:,} of them described in "
        f"{clock(report.seconds)}: {collection}"
    )
    if report.lacking:
        output.line(f"{len(report.lacking):,} images were left out, since their photos could not be read:")
        for origin, reason in report.lacking[:NAMED]:
            output.line(f"  {output.printable(origin)}: {reason}")
    if report.index:
        output.line(f"The index was of the old vectors; `resight tune {collection}` chooses one anew.")
