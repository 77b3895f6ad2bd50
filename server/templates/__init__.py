"""Projects to begin with: each folder is one, whose files are rendered with the project's name in `[[ project ]]`."""
