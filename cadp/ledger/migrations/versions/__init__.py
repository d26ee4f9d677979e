"""One file a revision, counted upwards; a published revision is never edited."""
