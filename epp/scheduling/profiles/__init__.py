"""Profile handlers: one a module."""
