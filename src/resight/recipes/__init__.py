"""Recipes: the survey's Fig. 2 as data."""

from resight.recipes.recipe import Recipe, load_recipe, parse_recipe, recipe_names, recipe_text

__all__ = ["Recipe", "load_recipe", "parse_recipe", "recipe_names", "recipe_text"]
