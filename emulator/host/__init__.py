"""Scripts that run by path in other interpreters: standard library only, imported by nobody."""
