"""Coding CLIs as the body of a node: Claude Code under its control protocol, Codex and Gemini headless.

`executor.CodingExecutor` runs them under the supervisor; each permission that Claude Code asks for goes to the gate.
"""
