"""Telling others what happens: webhooks, Slack, PagerDuty.

endpoints.py   `Endpoint`: who is told of which events, as `omium.yaml` declares it.
documents.py   What is told of an event: `{type, timestamp, data}`, the same for every receiver.
signing.py     The signature of a webhook, and how a receiver verifies it.
formats.py     The document as Slack and PagerDuty want it.
notifiers.py   Carrying one document to one receiver.
carrier.py     Finding what is to be told, and carrying it out until it is done or given up.
"""
