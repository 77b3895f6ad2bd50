"""Bringing a project to where it runs.

keys.py      Ed25519 keys: who may deploy.
bundle.py    A signed bundle of a project: definitions, agents, policy and code, by their digests.
releases.py  An environment: a directory of releases, one of which is current.
files.py     Files for those who run it: service unit, container, Compose file, Prometheus, Grafana.
"""
