"""The verbs that re-rank vectors of any database, and learn how to."""

import csv
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import TypeAdapter, ValidationError

from resight.cli import output
from resight.cli.options import Quiet
from resight.cli.progress import Reporter
from resight.errors import QueryError, RecipeError
from resight.recipes.rerank_stages import RerankStage

_BY_FEATURES = {"transformer", "matching", "kernel", "dsm"}  # which a file of vectors has not
_STAGES = get_args(get_args(RerankStage)[0])
METHODS = [m for s in _STAGES if (m := get_args(s.model_fields["method"].annotation)[0]) not in _BY_FEATURES]


def rerank(
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help=".npz or .safetensors with ids and vectors.")],
    queries: Annotated[Path, typer.Argument(metavar="QUERIES", help="Likewise, the queries' ids and vectors.")],
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="METHOD[:KEY=VALUE,…]",
            help=f"{', '.join(METHODS)}; with parameters as in a recipe's tables rerank. Repeatable: one after the "
            "other. Without any, by cosine.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, metavar="K", help="At most K results a query.")] = 50,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", metavar="FOLDER", help="Keep here what stages build for the whole database, for the next call."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Re-rank vectors of your own database, as `resight export` writes them; prints CSV.

    A file may hold several rows an id, vectors of its regions, and their boxes (x1, y1, x2, y2) as an array boxes:
    regional-diffusion and patches need them, and the others take the sum of an image's rows.
    """
    from resight.search.rerank.vectors import read_vectors, rerank_vectors

    stages = [parse_stage(text) for text in stage or []]
    known, asked = read_vectors(database), read_vectors(queries)
    if known.rows.dimension != asked.rows.dimension:
        raise QueryError(
            f"{queries}: vectors have {asked.rows.dimension} entries, those of {database} "
            f"{known.rows.dimension}: describe both with one recipe"
        )
    paths = dict(zip(known.rows.ids.tolist(), known.paths or (), strict=False))
    ids, vectors = asked.queries()
    with Reporter(quiet) as reporter:
        rankings = rerank_vectors(
            known.database, vectors, stages, top, regions=known.regions, keep=keep, progress=reporter
        )
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["query", "rank", "id", "score", "path", "x1", "y1", "x2", "y2"])
    for query, ranking in zip(ids.tolist(), rankings, strict=True):
        entries = zip(ranking.ids.tolist(), ranking.scores.tolist(), ranking.evidence, strict=True)
        for place, (image, score, evidence) in enumerate(entries, 1):
            box = [""] * 4 if evidence is None or evidence.box is None else [f"{v:g}" for v in evidence.box]
            writer.writerow([query, place, image, f"{score:.6g}", paths.get(image, ""), *box])


def learn_rerank(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="gss, which needs no labels.")],
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help=".npz or .safetensors with ids and vectors.")],
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="What to write, a .safetensors file.")],
    neighbours: Annotated[int, typer.Option("--neighbours", min=1, metavar="K", help="Of an image in the graph.")] = 4,
    layers: Annotated[int, typer.Option("--layers", min=1, metavar="N", help="Of the network.")] = 2,
    epochs: Annotated[int, typer.Option("--epochs", min=0, metavar="N", help="Steps over all vectors.")] = 200,
    device: Annotated[str, typer.Option("--device", help="Of PyTorch: cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Learn what a stage of re-ranking needs, from vectors alone; name the file as the stage's `model`."""
    from resight.search.rerank.vectors import read_vectors

    if method != "gss":
        raise RecipeError(f"nothing is learned for {method!r} here; choose gss")
    vectors = read_vectors(database).database.vectors
    try:
        from resight.search.rerank.gss import GssModel
    except ModuleNotFoundError as error:
        raise RecipeError(f"gss needs {error.name}: pip install 'resight[deep]'") from error
    with Reporter(quiet) as reporter:
        model = GssModel.fit(
            vectors,
            fitted_on=f"{len(vectors):,} vectors of {database} (seed {seed})",
            neighbours=neighbours,
            layers=layers,
            epochs=epochs,
            seed=seed,
            device=device,
            on_epoch=lambda epoch, _: reporter.report("learning", epoch + 1, epochs),
        )
    model.save(into)
    output.line(str(into))


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
