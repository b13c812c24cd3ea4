"""Which filter over visual words a recipe asks for, with what its collection has learned."""

from resight.embedding.codebook import Codebook
from resight.local.asmk_filter import AsmkFilter
from resight.local.bow_filter import BowFilter
from resight.local.hamming_filter import HammingFilter, Signer
from resight.local.word_filter import WordFilter
from resight.recipes.recipe import AsmkStage, Recipe


def word_filter(recipe: Recipe, codebook: Codebook, signer: Signer | None) -> WordFilter:
    """What encodes images as ``recipe.postings`` says, and compares them as the recipe's table says.

    signer: for [hamming]; ValueError where it lacks one. A recipe without such a table encodes as for ASMK.
    """
    if recipe.bow is not None:
        return BowFilter(recipe.bow.idf, recipe.bow.root)
    if (stage := recipe.hamming) is not None:
        if signer is None:
            raise ValueError(f"recipe {recipe.name} has the table [hamming], which needs a signer beside the codebook")
        return HammingFilter(signer, stage.threshold, stage.sigma, stage.idf)
    asmk = recipe.asmk or AsmkStage()
    return AsmkFilter(codebook, asmk.alpha, asmk.threshold)
