"""What a run is turned into for people: figures, and stickers to print."""
