"""Many networks, as likely as the training samples make them."""
