"""Labelled sets, protocols, figures and reports (survey §6)."""

from resight.evaluation.labelled import LabelledSet, Query, sample, subset, with_distractors
from resight.evaluation.load import load_labelled
from resight.evaluation.page import write_page
from resight.evaluation.protocol import evaluate
from resight.evaluation.report import Report

__all__ = [
    "LabelledSet",
    "Query",
    "Report",
    "evaluate",
    "load_labelled",
    "sample",
    "subset",
    "with_distractors",
    "write_page",
]
