"""Agents as nodes: declared definitions, one adapter protocol for every framework, and the executors of their nodes.

Nothing here imports a framework until a node needs it.
"""
