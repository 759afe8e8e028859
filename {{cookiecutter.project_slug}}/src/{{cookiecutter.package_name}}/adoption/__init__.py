"""From a table of somebody's own to the files that declare it as this project's problem."""
