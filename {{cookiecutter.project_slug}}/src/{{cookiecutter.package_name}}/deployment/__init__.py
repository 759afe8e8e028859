"""From a registered version to the champion, one gate at a time."""
