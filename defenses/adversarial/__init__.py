"""Training on attacked samples."""
