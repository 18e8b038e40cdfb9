"""Tools for every room, which know none of them: errors, clocks, text, YAML."""
