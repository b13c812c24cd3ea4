"""The published sets that resight reads, by name."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.datasets.dataset import Dataset, File
from resight.evaluation.datasets.holidays import load_holidays
from resight.evaluation.datasets.ilias import load_ilias
from resight.evaluation.datasets.instre import load_instre
from resight.evaluation.datasets.landmarks import load_gldv1, load_gldv2
from resight.evaluation.datasets.oxford import load_oxford
from resight.evaluation.datasets.revisited import load_revisited
from resight.evaluation.datasets.ukbench import load_ukbench
from resight.evaluation.labelled import LabelledSet

_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_CIR = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test"
_GLD = "https://s3.amazonaws.com/google-landmark"
_ILIAS = "https://vrg.fel.cvut.cz/ilias_data"
_FLICKR = "Flickr's terms of use and the set's terms of access; research"

_OXFORD_IMAGES = (File(f"{_VGG}/oxbuildings/oxbuild_images-v1.tgz", "jpg", unpack=True),)
_PARIS_IMAGES = tuple(File(f"{_VGG}/parisbuildings/paris_{part}-v1.tgz", "jpg", unpack=True) for part in (1, 2))
_OXFORD = (*_OXFORD_IMAGES, File(f"{_VGG}/oxbuildings/gt_files_170407.tgz", "gt_files_170407", unpack=True))
_PARIS = (*_PARIS_IMAGES, File(f"{_VGG}/parisbuildings/paris_120310.tgz", "paris_120310", unpack=True))
_FLICKR100K = f"Flickr100k: 40 files oxc1_100k.part01.rar … of {_VGG}/oxbuildings/, unpacked with unrar: oxc1_100k/"
_R1M = tuple(
    File(
        f"http://ptak.felk.cvut.cz/revisitop/revisitop1m/jpg/revisitop1m.{part}.tar.gz", "revisitop1m/jpg", unpack=True
    )
    for part in range(1, 101)
)
# sha256 of the files that lie beside this project's photographs and agree with their .json.
_ROXFORD = (
    *_OXFORD_IMAGES,
    File(
        f"{_CIR}/roxford5k/gnd_roxford5k.pkl",
        "gnd_roxford5k.pkl",
        sha256="ba7967754bd2d7d2210a5799f9c45ad5835e269a80ef9d3eba44caa35816c471",
    ),
)
_RPARIS = (
    *_PARIS_IMAGES,
    File(
        f"{_CIR}/rparis6k/gnd_rparis6k.pkl",
        "gnd_rparis6k.pkl",
        sha256="d2e729a5293dda7dda8a15c8383424a42e4964a2c4cfea2f32fa85d11d2df499",
    ),
)
_BOXED = ("cropped", "uncropped")
_LEVELS = tuple(f"{level}{crop}" for crop in ("", "-uncropped") for level in ("medium", "hard", "easy"))
_PHILBIN_2007 = "Philbin et al., CVPR 2007"
_PHILBIN_2008 = "Philbin et al., CVPR 2008"
_REVISITED = "Radenović et al., CVPR 2018"
_REVISITOP = "http://cmp.felk.cvut.cz/revisitop/"


def _archives(split: str, count: int) -> tuple[File, ...]:
    return tuple(
        File(
            f"{_GLD}/{split}/images_{part:03d}.tar",
            split,
            unpack=True,
            sums=f"{_GLD}/md5sum/{split}/md5.images_{part:03d}.txt",
        )
        for part in range(count)
    )


_ALL = (
    Dataset(
        "ukbench",
        10_200,
        10_200,
        ("n-s",),
        "1.9 GB",
        "Nistér & Stewénius, CVPR 2006",
        "https://archive.org/details/ukbench",
        "cite the paper; no licence stated",
        load_ukbench,
        (File("https://archive.org/download/ukbench/ukbench.zip", "", unpack=True),),
    ),
    Dataset(
        "holidays",
        1_491,
        500,
        ("map",),
        "2.7 GB",
        "Jégou, Douze & Schmid, ECCV 2008",
        "https://lear.inrialpes.fr/people/jegou/data.php.html",
        "copyright INRIA, without warranty; cite the paper",
        partial(load_holidays, name="holidays"),
        (File("https://lear.inrialpes.fr/~jegou/code/eval_holidays.tgz", "", unpack=True),),
        (
            "jpg1.tar.gz and jpg2.tar.gz of ftp://ftp.inrialpes.fr/pub/lear/douze/data/ (FTP only), unpacked here: "
            "they make jpg/",
        ),
    ),
    Dataset(
        "holidays-upright",
        1_491,
        500,
        ("map",),
        "2.7 GB",
        "Jégou, Douze & Schmid, ECCV 2008; turned upright by Babenko et al., ECCV 2014",
        "https://lear.inrialpes.fr/people/jegou/data.php.html",
        "as holidays",
        partial(load_holidays, name="holidays-upright"),
        (),
        (
            "the images turned upright, which authors pass on (deep-retrieval's holidays_rotated.tar.gz), in jpg/ with "
            "the original names; there is no official address",
        ),
    ),
    Dataset(
        "oxford5k",
        5_063,
        55,
        _BOXED,
        "1.9 GB",
        _PHILBIN_2007,
        f"{_VGG}/oxbuildings/",
        _FLICKR,
        partial(load_oxford, name="oxford5k"),
        _OXFORD,
    ),
    Dataset(
        "oxford105k",
        105_134,
        55,
        _BOXED,
        "1.9 GB, and Flickr100k",
        _PHILBIN_2007,
        f"{_VGG}/oxbuildings/",
        _FLICKR,
        partial(load_oxford, name="oxford5k", distractors=True),
        _OXFORD,
        (_FLICKR100K,),
    ),
    Dataset(
        "paris6k",
        6_392,
        55,
        _BOXED,
        "2.5 GB",
        _PHILBIN_2008,
        f"{_VGG}/parisbuildings/",
        _FLICKR,
        partial(load_oxford, name="paris6k"),
        _PARIS,
    ),
    Dataset(
        "paris106k",
        106_463,
        55,
        _BOXED,
        "2.5 GB, and Flickr100k",
        _PHILBIN_2008,
        f"{_VGG}/parisbuildings/",
        _FLICKR,
        partial(load_oxford, name="paris6k", distractors=True),
        _PARIS,
        (_FLICKR100K,),
    ),
    Dataset(
        "roxford5k",
        4_993,
        70,
        _LEVELS,
        "1.9 GB",
        _REVISITED,
        _REVISITOP,
        _FLICKR,
        partial(load_revisited, name="roxford5k"),
        _ROXFORD,
    ),
    Dataset(
        "roxford5k+1m",
        1_005_994,
        70,
        _LEVELS,
        "1.9 GB, and R1M",
        _REVISITED,
        _REVISITOP,
        _FLICKR,
        partial(load_revisited, name="roxford5k", distractors=True),
        (*_ROXFORD, *_R1M),
    ),
    Dataset(
        "rparis6k",
        6_322,
        70,
        _LEVELS,
        "2.5 GB",
        _REVISITED,
        _REVISITOP,
        _FLICKR,
        partial(load_revisited, name="rparis6k"),
        _RPARIS,
    ),
    Dataset(
        "rparis6k+1m",
        1_007_323,
        70,
        _LEVELS,
        "2.5 GB, and R1M",
        _REVISITED,
        _REVISITOP,
        _FLICKR,
        partial(load_revisited, name="rparis6k", distractors=True),
        (*_RPARIS, *_R1M),
    ),
    Dataset(
        "instre",
        27_293,
        1_250,
        ("cropped", "cropped-corners", "cropped-extents", "uncropped"),
        "2.3 GB",
        "Wang & Jiang, TOMM 2015; Iscen et al., CVPR 2017",
        "http://123.57.42.89/instre/home.html",
        "research; no licence stated",
        load_instre,
        (),
        (
            "instre.tar.gz of ftp://ftp.irisa.fr/local/texmex/corpus/instre/ (FTP only), unpacked here: it makes "
            "INSTRE-S1/, INSTRE-S2/ and INSTRE-M/",
            "gnd_instre.mat of the same folder, beside them",
        ),
    ),
    Dataset(
        "gldv1",
        0,
        0,
        ("private", "public"),
        "withdrawn",
        "Noh et al., ICCV 2017",
        "https://www.kaggle.com/google/google-landmarks-dataset",
        "images of several licences; the set is no longer offered",
        load_gldv1,
        (),
        (
            "the set was withdrawn: only a copy from before has its index.csv, index/ID.jpg and test/ID.jpg",
            "retrieval_solution.csv with columns id, images, Usage, as GLDv2's: no official address is known",
        ),
    ),
    Dataset(
        "gldv2",
        761_757,
        0,
        ("private", "public"),
        "95 GB",
        "Weyand et al., CVPR 2020",
        "https://github.com/cvdfoundation/google-landmark",
        "annotations CC BY 4.0; index and test images CC0 or public domain",
        load_gldv2,
        (
            File(f"{_GLD}/metadata/index.csv", "metadata/index.csv"),
            *(
                File(f"{_GLD}/ground_truth/{task}_solution_v2.1.csv", f"ground_truth/{task}_solution_v2.1.csv")
                for task in ("retrieval", "recognition")
            ),
            *_archives("index", 100),
            *_archives("test", 20),
        ),
    ),
    Dataset(
        "ilias",
        4_715,
        1_232,
        tuple(f"{part}{crop}" for crop in ("", "-cropped") for part in ("core", "mini", "shards")),
        "6.3 TB with all shards",
        "Kordopatis-Zilos et al., CVPR 2025",
        "https://vrg.fel.cvut.cz/ilias/",
        "own images CC BY 4.0, others their owners' (url.txt beside them)",
        load_ilias,
        (
            *(
                File(f"{_ILIAS}/image_ids/{name}", f"image_ids/{name}")
                for name in ("image_query_ids.txt", "positive_ids.txt", "mini_ilias_yfcc100m_ids.txt")
            ),
            File(f"{_ILIAS}/ilias_core.tar", "", unpack=True, sums=f"{_ILIAS}/checksums.txt"),
        ),
        (
            f"for mini and shards: the shards of {_ILIAS}/yfcc100m/ in yfcc100m/, packed as they are; their sha256 are "
            f"in {_ILIAS}/checksums.txt",
        ),
    ),
)

DATASETS: Mapping[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def find_dataset(name: str) -> Dataset:
    """The set of a name. Raises GroundTruthError, naming the others, where there is none."""
    if name not in DATASETS:
        raise GroundTruthError(f"no data set is called {name!r}; choose {', '.join(DATASETS)}")
    return DATASETS[name]


def load_dataset(name: str, folder: str | Path, protocol: str | None = None, *, partial: bool = False) -> LabelledSet:
    """A published set, laid out as its loader says (`docs/datasets.md`), under one of its protocols.

    protocol: None for the usual one. partial: let a set through that is not whole; its protocol then says so.
    Raises GroundTruthError for an unknown name or protocol, for files that are missing, damaged or contradict the
    ground truth, and for a set that is not whole.
    """
    dataset = find_dataset(name)
    chosen = dataset.protocols[0] if protocol is None else protocol
    if chosen not in dataset.protocols:
        raise GroundTruthError(f"{name} has no protocol {chosen!r}; choose {', '.join(dataset.protocols)}")
    root = Path(os.path.normpath(Path(folder).expanduser().absolute()))
    if not root.is_dir():
        raise GroundTruthError(f"{folder}: no such folder; `resight datasets get {name} --into {folder}` makes it")
    labelled = dataset.load(root, chosen, partial)
    return replace(labelled, name=f"{name} ({chosen})" if len(dataset.protocols) > 1 else name)
