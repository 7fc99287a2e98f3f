"""The stages of a recipe, made short."""

from ppl_text.recipes.config import load_config


def short_stages(name):
    """The stages of a recipe, of two updates each: fewer leave a guide behind a decoder alone where it was."""
    stages = load_config(name).training.stages
    own = [stage.model_dump(mode="json", exclude_unset=True, exclude={"epochs", "lr"}) for stage in stages]
    return [{**stage, "steps": 2} for stage in own]
