"""/v1/collection, its images and their pictures, folders, metadata and failures."""

from itertools import islice
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from resight.errors import CollectionError, QueryError
from resight.search.collection import Entry
from resight.server import schemas
from resight.server.pictures import LARGEST, THUMBNAILS
from resight.server.problems import Refused
from resight.server.replies import picture_reply
from resight.server.service import Service
from resight.server.values import condition, image_facts, text
from resight.store.where import Equals, all_of

Limit = Annotated[int, Query(ge=1, le=1000)]
ImageId = Annotated[int, Path(ge=1, lt=2**63)]
Side = Annotated[int, Query(json_schema_extra={"enum": list(THUMBNAILS)})]


def routes(service: Service) -> APIRouter:
    """Of one service."""
    router, live = APIRouter(prefix="/v1"), service.live
    folders = _Folders(service)

    def entry(image: int) -> Entry:
        try:
            return live.entry(image)
        except QueryError as error:
            raise Refused(404, "query", str(error)) from None

    @router.get("/collection")
    def collection() -> schemas.CollectionFacts:
        info, recipe = live.info(), live.recipe
        try:
            service.readers.searchable()
            ready = True
        except CollectionError:
            ready = False
        return schemas.CollectionFacts(
            **vars(info) | {"path": text(info.path)},
            name=text(service.path.name),
            writable=service.settings.write,
            verifies=recipe.verify is not None and recipe.calibration is not None,
            threshold=None if recipe.calibration is None else recipe.calibration.accept,
            adapters=list(live.adapters),
            adapter=live.adapter,
            ready=ready,
            why=service.readers.why,
            photos=[text(str(root)) for root in service.settings.photos] if service.settings.write else [],
        )

    @router.get("/images")
    def images(
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        limit: Limit = 100,
        folder: str | None = None,
        where: schemas.Condition | None = None,
    ) -> schemas.ImagePage:
        """By ascending id. folder: only those in it, at any depth. where: a condition as text."""
        asked = [Equals("folder", folder) if folder else None, condition(where)]
        wanted = all_of([one for one in asked if one is not None])
        if wanted is None:
            found = list(live.entries(after=after, limit=limit + 1))
        else:
            ids = live.matching(wanted)
            found = [live.entry(i) for i in ids[np.searchsorted(ids, after, "right") :][: limit + 1].tolist()]
        page = [image_facts(one) for one in found[:limit]]
        return schemas.ImagePage(images=page, next=page[-1].id if len(found) > limit else None)

    @router.get("/images/{image}")
    def image(image: ImageId) -> schemas.ImageDetails:
        facts = image_facts(entry(image))
        missing = image in live.matching(Equals("missing", True))
        return schemas.ImageDetails(
            **facts.model_dump(), metadata=live.metadata(image), missing=missing, digest=live.digest(image)
        )

    @router.get("/images/{image}/thumbnail", response_class=Response)
    async def thumbnail(request: Request, image: ImageId, side: Side = 320) -> Response:
        """JPEG, upright and without EXIF, made once."""
        if side not in THUMBNAILS:
            raise Refused(422, "request", f"side: one of {', '.join(map(str, THUMBNAILS))}")
        return await shown(request, image, side)

    @router.get("/images/{image}/picture", response_class=Response)
    async def picture(
        request: Request, image: ImageId, side: Annotated[int, Query(ge=16, le=LARGEST)] = LARGEST
    ) -> Response:
        """JPEG, upright and without EXIF, with the longest side at most `side` pixels."""
        return await shown(request, image, side)

    async def shown(request: Request, image: int, side: int) -> Response:
        def make() -> tuple[str, bytes | None]:
            entry(image)
            tag = service.pictures.tag(image, side)
            same = request.headers.get("if-none-match") == tag
            return tag, None if same else service.pictures.jpeg(image, side)

        return picture_reply(*await service.drawn(make))

    @router.get("/folders")
    def all_folders() -> schemas.Folders:
        return folders.now()

    @router.get("/metadata/keys")
    def keys() -> schemas.Keys:
        found: list[Any] = [vars(key) for key in live.metadata_keys()]
        return schemas.Keys(keys=[schemas.KeyFacts(**key) for key in found])

    @router.get("/failures")
    def failures(after: str = "", limit: Limit = 100) -> schemas.FailurePage:
        """By path, from the first behind `after`."""
        found = list(islice(live.failures(after=after), limit + 1))
        page = [schemas.FailureFacts(path=text(f.origin), reason=text(f.reason)) for f in found[:limit]]
        return schemas.FailurePage(failures=page, next=found[limit - 1].origin if len(found) > limit else None)

    return router


class _Folders:
    """The folders there are and how many images each has, counted once for a state of the collection."""

    def __init__(self, service: Service) -> None:
        self._live = service.live
        self._counted: tuple[int, schemas.Folders] | None = None

    def now(self) -> schemas.Folders:
        version = self._live.version
        if self._counted is None or self._counted[0] != version:
            counts: dict[str, int] = {}
            for entry in self._live.entries():
                folder = text(entry.origin).rpartition("/")[0]
                counts[folder] = counts.get(folder, 0) + 1
            found = [schemas.Folder(folder=folder, images=counts[folder]) for folder in sorted(counts)]
            self._counted = version, schemas.Folders(folders=found)
        return self._counted[1]
