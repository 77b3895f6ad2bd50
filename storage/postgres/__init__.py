"""The store in PostgreSQL. It needs the extra `postgres` (asyncpg)."""
