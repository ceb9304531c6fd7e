"""The admin port, through real HTTP."""
