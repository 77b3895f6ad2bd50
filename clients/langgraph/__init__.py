"""LangGraph's state in Omium's store. LangGraph is an extra: nothing else imports this package."""
