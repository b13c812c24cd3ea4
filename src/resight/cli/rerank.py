"""The verb that re-ranks vectors of any database."""

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from resight.errors import QueryError, RecipeError
from resight.recipes.rerank_stages import RerankStage


def rerank(
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help=".npz or .safetensors with ids and vectors.")],
    queries: Annotated[Path, typer.Argument(metavar="QUERIES", help="Likewise, the queries' ids and vectors.")],
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="METHOD[:KEY=VALUE,…]",
            help="expansion, k-reciprocal, diffusion, rdp, egt or superglobal, with parameters as in a recipe's "
            "[[rerank]]. Repeatable: one after the other. Without any, by cosine.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, metavar="K", help="At most K results a query.")] = 50,
) -> None:
    """Re-rank vectors of your own database, as `resight export` writes them; prints CSV."""
    from resight.search.rerank.vectors import read_vectors, rerank_vectors

    stages = [parse_stage(text) for text in stage or []]
    known, asked = read_vectors(database), read_vectors(queries)
    if known.database.dimension != asked.database.dimension:
        raise QueryError(
            f"{queries}: vectors have {asked.database.dimension} entries, those of {database} "
            f"{known.database.dimension}: describe both with one recipe"
        )
    paths = dict(zip(known.database.ids.tolist(), known.paths or (), strict=False))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["query", "rank", "id", "score", "path"])
    rankings = rerank_vectors(known.database, asked.database.vectors, stages, top)
    for query, ranking in zip(asked.database.ids.tolist(), rankings, strict=True):
        for place, (image, score) in enumerate(zip(ranking.ids.tolist(), ranking.scores.tolist(), strict=True), 1):
            writer.writerow([query, place, image, f"{score:.6g}", paths.get(image, "")])


def parse_stage(text: str) -> RerankStage:
    """``METHOD:KEY=VALUE,KEY=VALUE`` as a stage; the value ``none`` is none. RecipeError where it is no stage."""
    method, _, rest = text.partition(":")
    table: dict[str, str | None] = {"method": method}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise RecipeError(f"--stage {text}: {part} should be KEY=VALUE")
        table[key] = None if value == "none" else value
    try:
        return TypeAdapter[RerankStage](RerankStage).validate_python(table)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))} {e['msg']}".strip() for e in error.errors())
        raise RecipeError(f"--stage {text}: {problems}") from error
