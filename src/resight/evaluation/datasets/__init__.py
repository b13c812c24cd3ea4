"""The field's published sets in their own layouts (survey §6.1): `load_dataset` makes a `LabelledSet` of one."""

from resight.evaluation.datasets.catalogue import DATASETS, find_dataset, load_dataset
from resight.evaluation.datasets.check import check_dataset
from resight.evaluation.datasets.dataset import Dataset, File
from resight.evaluation.datasets.obtain import obtain

__all__ = ["DATASETS", "Dataset", "File", "check_dataset", "find_dataset", "load_dataset", "obtain"]
