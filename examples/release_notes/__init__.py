"""Release notes from a git history, asked about before they are published: what `omium demo` runs."""
