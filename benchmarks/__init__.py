"""One command each; see README.md."""
