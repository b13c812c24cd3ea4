"""What the API says and is told. Keys are only ever added within /v1."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Box = tuple[float, float, float, float]
Id = Annotated[int, Field(ge=0, lt=2**63)]
Condition = Annotated[str, Field(max_length=65_536)]
Matrix = list[list[float]]

SearchState = Literal["waiting", "running", "done", "failed", "cancelled"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ErrorFacts(BaseModel):
    """code: for programs; message: what is wrong and what to do."""

    code: str
    message: str


class Error(BaseModel):
    """Of every status from 400."""

    error: ErrorFacts


class CollectionFacts(BaseModel):
    """What there is to search. threshold: least score of a match, null with a recipe that cannot tell matches.

    adapters: among which a search chooses; adapter: that of one which names none.
    ready: whether a search would be answered; why: why not, or why it would be of an older state.
    """

    name: str
    recipe: str
    fingerprint: str
    images: int
    missing: int
    failures: int
    pending: int
    bytes_on_disk: int
    bytes_per_image: float
    path: str
    codebook: dict[str, Any] | None
    index: dict[str, Any] | None
    advice: str | None
    writable: bool
    verifies: bool
    threshold: float | None
    adapters: list[str]
    adapter: str
    ready: bool
    why: str | None
    photos: list[str]


class ImageFacts(BaseModel):
    """folder and name, joined by a slash, are where the photo lies; width and height of the upright original."""

    id: int
    name: str
    folder: str
    width: int
    height: int


class ImageDetails(ImageFacts):
    """metadata: what is known of the image besides its pixels."""

    metadata: dict[str, bool | int | float | str]
    missing: bool
    digest: str


class ImagePage(BaseModel):
    """next: what to give as `after` for the images that follow; null at the end."""

    images: list[ImageFacts]
    next: int | None


class Folder(BaseModel):
    """images: in it, without those of folders in it."""

    folder: str
    images: int


class Folders(BaseModel):
    """In alphabetical order."""

    folders: list[Folder]


class KeyFacts(BaseModel):
    """A key of the metadata and its values of one kind, as ``resight metadata keys`` says them."""

    name: str
    kind: Literal["number", "text", "truth"]
    images: int
    low: bool | int | float | str | None
    high: bool | int | float | str | None
    frequent: list[tuple[bool | int | float | str, int]]


class Keys(BaseModel):
    """All of them."""

    keys: list[KeyFacts]


class FailureFacts(BaseModel):
    """A file that could not be indexed."""

    path: str
    reason: str


class FailurePage(BaseModel):
    """next: what to give as `after`; null at the end."""

    failures: list[FailureFacts]
    next: str | None


class UploadFacts(BaseModel):
    """query: its id; width and height of the upright original, which boxes are in."""

    query: str
    width: int
    height: int


class AskedExample(_Asked):
    """image: the id of an image of the collection, or of an uploaded query. weight: below 0 for less like it."""

    image: Id | Annotated[str, Field(max_length=200)]
    box: Box | None = None
    weight: float = 1.0


class SearchRequest(_Asked):
    """As ``Collection.search_examples``. where: a condition as text or as JSON. adapter: as ``Collection.adapter``."""

    examples: list[AskedExample] = Field(max_length=16)
    top: int = Field(default=100, ge=1, le=10_000)
    where: Condition | dict[str, Any] | None = None
    exact: bool = False
    adapter: str | None = None


class EvidenceFacts(BaseModel):
    """``Evidence`` as a list of results has it; box and outline in the result's pixels."""

    inliers: int
    matches: int
    box: Box | None
    outline: Matrix | None
    example: int
    agreement: float
    instances: int


class Instance(BaseModel):
    """One place of the thing in a result. homography: query pixels → result pixels; query_xy, result_xy: inliers."""

    inliers: int
    matches: int
    homography: Matrix | None
    outline: Matrix | None
    box: Box | None
    query_xy: Matrix
    result_xy: Matrix
    example: int
    agreement: float


class FullEvidence(Instance):
    """others: further places."""

    others: list[Instance]


class ResultFacts(BaseModel):
    """evidence: null where it was not verified. name, width and height are null for one that was removed since."""

    image: int
    score: float
    accepted: bool
    name: str | None
    width: int | None
    height: int | None
    evidence: EvidenceFacts | None
    full: FullEvidence | None = None


class TimingFacts(BaseModel):
    """Seconds by stage; waited: for other searches, before and between being read, described and ranked."""

    describe: float
    filter: float
    verify: float
    waited: float
    comparisons: int


class Search(BaseModel):
    """accepted: matches among all `total` results, of which `results` is a page. error: of a failed one.

    filter_rank, suspect: ``Ranking.place`` and ``Ranking.suspect``.
    """

    search: str
    state: SearchState
    request: SearchRequest
    accepted: int | None
    total: int | None
    threshold: float | None
    calibrated: bool | None
    filter_rank: int | None
    suspect: bool | None
    results: list[ResultFacts]
    timing: TimingFacts | None
    error: ErrorFacts | None


class ResultDetails(BaseModel):
    """One result with its evidence in full."""

    image: int
    score: float
    accepted: bool
    evidence: FullEvidence | None


class JobRequest(_Asked):
    """paths: of "add" folders and files under the service's --photos; of "remove" what was indexed from there.

    images: ids to "remove". missing: "remove" all whose file is gone.
    """

    kind: Literal["add", "remove", "duplicates"]
    paths: list[str] = Field(default=[], max_length=1000)
    images: list[Id] = Field(default=[], max_length=100_000)
    missing: bool = False


class ProgressFacts(BaseModel):
    """total: null where it is not known yet."""

    phase: str
    done: int
    total: int | None


class Job(BaseModel):
    """result: of "add" an ``AddReport``, of "remove" how many were removed, of "duplicates" how many clusters."""

    job: str
    kind: str
    state: JobState
    progress: ProgressFacts | None
    result: dict[str, Any] | None
    error: ErrorFacts | None


class Jobs(BaseModel):
    """The newest first."""

    jobs: list[Job]


class DuplicateFacts(ImageFacts):
    """overlap, inliers: with the one of the others that it resembles most; 0 where it was only decided."""

    overlap: float
    inliers: int


class ClusterFacts(BaseModel):
    """decision: about all pairs of its images; null where any pair is open."""

    cluster: str
    images: list[DuplicateFacts]
    decision: Literal["duplicates", "different"] | None


class Clusters(BaseModel):
    """First those with an open pair, then those decided. total: of all. uncompared: images not looked at yet."""

    clusters: list[ClusterFacts]
    next: int | None
    total: int
    uncompared: int


class DecisionRequest(_Asked):
    """images: those of the cluster that it is about, by default all; null takes back what was decided."""

    decision: Literal["duplicates", "different"] | None
    images: list[Id] | None = None


class MetadataChange(_Asked):
    """Facts by key, by the image's id; null takes a given one back."""

    facts: dict[Id, dict[str, bool | int | float | str | None]] = Field(max_length=10_000)


class Health(BaseModel):
    """why: why it is not ready."""

    ready: bool
    why: str | None
