"""Learning the images before their classes."""
