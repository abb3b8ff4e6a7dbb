"""From a recipe to a trained network: schema, trainer, checkpoint, and the files that come out."""
