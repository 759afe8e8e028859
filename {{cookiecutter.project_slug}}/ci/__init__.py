"""What workflows do that is neither a session of the noxfile nor a verb of the command line."""
