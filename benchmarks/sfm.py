"""COLMAP's models of the photos that unlabelled.py learns from, for its ``--method "colmap unlabelled.model=FOLDER"``.

Half of a set's objects, the same; nobody tells COLMAP which photos show the same. Its mapping differs a little each
time.
"""

import argparse
import time
from pathlib import Path

import pycolmap

from common import header
from learning import halves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", type=Path, metavar="SET", help="folder with a gt.json")
    parser.add_argument("--into", type=Path, required=True, help="folder that gets a model a connected part")
    parser.add_argument("--features", type=int, default=4000, help="of a photo at most (default: 4000)")
    parser.add_argument("--threads", type=int, default=-1, help="-1 for all cores (default)")
    options = parser.parse_args()
    known, _ = halves(options.set)
    names = [photo.path.relative_to(options.set.absolute()).as_posix() for photo in known.photos]
    options.into.mkdir(parents=True, exist_ok=True)
    database, folder = options.into / "database.db", options.set
    extraction, matching, mapping = (
        pycolmap.FeatureExtractionOptions(),
        pycolmap.FeatureMatchingOptions(),
        pycolmap.IncrementalPipelineOptions(),
    )
    extraction.sift.max_num_features = options.features
    for each in (extraction, matching, mapping):
        each.num_threads = options.threads
    mapping.min_model_size = 3
    began = time.perf_counter()
    device = pycolmap.Device.cpu
    pycolmap.extract_features(database, folder, names, extraction_options=extraction, device=device)
    pycolmap.match_exhaustive(database, matching_options=matching, device=device)
    models = pycolmap.incremental_mapping(database, folder, options.into, options=mapping)
    seen = sum(model.num_reg_images() for model in models.values())
    print(
        header(f"{options.set.name}: pycolmap {pycolmap.__version__}, {options.features} features, exhaustive matching")
    )
    print(f"{len(models)} models of {seen} of {len(names)} photos, in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
