"""Architectures, loaders for the models a user already has, and the zoo."""
