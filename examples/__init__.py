"""Runnable examples: each folder is a project for `omium run`, offline, and run by the tests."""
