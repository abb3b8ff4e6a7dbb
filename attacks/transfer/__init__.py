"""Attacks whose answers are to fool other models than the one they are made on."""
