"""The terminal of `morphogen chat`: streamed Markdown (`markdown`, `printer`), input, commands, transcript, and their loop."""
